"""Writes a mapper as a folder to share: safetensors, config.json and a model card; optionally onto the hub.

    python scripts/share_mapper.py --resume logs/RUN --output my-mapper
    python scripts/share_mapper.py --resume CKPT --output my-mapper --push-to owner/name      (after `hf auth login`)
`Retriever.load("my-mapper")` or `Retriever.load("owner/name")` reads it; CLIP is named, with its hash, not copied.
"""

from collections.abc import Sequence

from context_i2w.command_line import Parser
from context_i2w.errors import exit_on_user_error
from context_i2w.search.retriever import Retriever


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--resume", required=True, metavar="CKPT", help="checkpoint file or run folder, ours or published"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--push-to", metavar="OWNER/NAME", help="repository on the Hugging Face hub")
    parser.add_argument("--half", action="store_true", help="weights in float16, half the size")
    parser.add_argument("--trust-code", action="store_true", help="import a mapper of your own that CKPT names by path")
    arguments = parser.parse_args(argv)
    retriever = Retriever.load(arguments.resume, device="cpu", trust_code=arguments.trust_code)
    if arguments.half:
        retriever.mapper.half()
    folder = retriever.save_pretrained(arguments.output, arguments.push_to)
    print(f"wrote {folder}" + (f", uploaded to {arguments.push_to}" if arguments.push_to else ""))


if __name__ == "__main__":
    main()
