"""Writes a mapper as a folder to share: safetensors, config.json and a model card; optionally onto the hub.

    python scripts/share_mapper.py --resume logs/RUN --output my-mapper --results cirr.json fashion.json
    python scripts/share_mapper.py --resume CKPT --output my-mapper --push-to owner/name      (after `hf auth login`)
`Retriever.load("my-mapper")` or `Retriever.load("owner/name")` reads it; CLIP is named, with its hash, not copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import exit_on_user_error


@dataclass(frozen=True)
class ShareOptions(Options):
    resume: str = option("", "checkpoint or run folder, ours or published", metavar="CKPT", required=True)
    output: str = option("", "folder to write", metavar="DIR", required=True)
    push_to: str | None = option(None, "repository on the Hugging Face hub", metavar="OWNER/NAME")
    results: tuple[str, ...] = option(
        (), "evaluations of it for the model card, written by `eval_retrieval.py --output`", metavar="FILE.json"
    )
    half: bool = option(False, "weights in float16, half the size")
    trust_code: bool = option(False, "import a mapper of your own that CKPT names by path")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(ShareOptions, argv, prog="python scripts/share_mapper.py", description=__doc__)
    from context_i2w.search.retriever import Retriever  # imports torch, which --help does without

    retriever = Retriever.load(asked.resume, device="cpu", trust_code=asked.trust_code)
    if asked.half:
        retriever.mapper.half()
    folder = retriever.save_pretrained(asked.output, asked.push_to, asked.results)
    print(f"wrote {folder}" + (f", uploaded to {asked.push_to}" if asked.push_to else ""))


if __name__ == "__main__":
    main()
