"""Zero-shot accuracy of the tiny CLIP on scenes that it was not trained on.

    python scripts/toy_clip/probe.py                       # a table
    python scripts/toy_clip/probe.py --json probe.json     # the same numbers in a file
    python scripts/toy_clip/probe.py --weights FILE        # other weights of the same model

A class is the mean of the prompts that name it (for a kind: in all five media; for a colour, a pattern or a
length: with all kinds), so no other attribute of the picture is given away. All numbers in percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import exit_on_user_error


@dataclass(frozen=True)
class ProbeOptions(Options):
    weights: str | None = option(None, "another safetensors file of the tiny CLIP", metavar="FILE")
    count: int = option(1400, "pictures of each sort", at_least=1)
    json: Path | None = option(None, "the same numbers", metavar="FILE.json")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(ProbeOptions, argv, prog="python scripts/toy_clip/probe.py", description=__doc__)
    from accuracy import Probe, measure  # imports torch, which --help does without
    from context_i2w.evaluation.report import write_json
    from context_i2w.model.clip_weights import load_clip

    clip = load_clip("toy", asked.weights)
    results = measure(Probe(clip), asked.count)
    for name, value in results.items():
        print(f"{name:26} {value:6.1f}")
    if asked.json:
        write_json({"weights": clip.weights_hash, "count": asked.count, "accuracy": results}, asked.json)


if __name__ == "__main__":
    main()
