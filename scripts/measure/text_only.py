"""Cost of training φ from captions alone: the FLOP model's, and the rate of our step on this machine.

python scripts/measure/text_only.py --batch-size 8 --positions 20
python scripts/measure/text_only.py --batch-size 512 --model ViT-L-14 --device cuda --precision bf16
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarking.options import MeasureOptions
from context_i2w.command_line import option, parse
from context_i2w.errors import exit_on_user_error

UPDATES = 20_000 * 512  # captions of the recipe


@dataclass(frozen=True)
class TextOptions(MeasureOptions):
    batch_size: int = option(8, "captions of a step", at_least=1)
    positions: int = option(20, "of the longest caption of a batch", at_least=3, at_most=77)
    model: str | None = option(None, "measure this one's step, with random weights", metavar="NAME")
    precision: str = option("fp32", "of that step", choices=("fp32", "bf16"))


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(TextOptions, argv, prog="python scripts/measure/text_only.py", description=__doc__)
    from benchmarking.timing import machine, start  # imports torch; --help does without
    from context_i2w.evaluation.report import write_json
    from step_work import text_only_step, tower_shape

    device = start(asked)
    for model in ("ViT-L-14", "ViT-bigG-14"):
        for positions in (asked.positions, 77):
            work = text_only_step(tower_shape(model), positions, positions)
            print(f"{model}, {positions} positions: {work / 1e9:.1f} GFLOP a caption, {work * UPDATES:.2e} in all")
    if asked.model:
        seconds, here = measured(asked, device), machine(device)
        rate = asked.batch_size * text_only_step(tower_shape(asked.model), asked.positions, asked.positions) / seconds
        where = f"{here['name']}, {asked.precision}, {here['threads']} threads"
        print(f"{asked.model} here: {rate / 1e9:.0f} GFLOP/s, {asked.batch_size / seconds:.0f} captions/s ({where})")
        if asked.output:
            facts = {"model": asked.model, "batch": asked.batch_size, "precision": asked.precision}
            write_json({"machine": here, **facts, "seconds": seconds, "GFLOP/s": rate / 1e9}, asked.output)


def measured(asked: TextOptions, device: Any) -> float:
    """Seconds of a step, forward and backward, the median of three."""
    import torch

    from benchmarking.timing import alternate
    from context_i2w.data.batch import Batch
    from context_i2w.model.clip_weights import load_clip
    from context_i2w.model.mappers import Phi
    from context_i2w.model.prompts import PLACEHOLDER_ID
    from context_i2w.training.text_only import TextOnly, TextOnlyOptions

    clip = load_clip(asked.model, None, device)
    mapper, objective = Phi(clip.sizes).to(device), TextOnly(clip, TextOnlyOptions(parser="rules"))
    ids = torch.randint(1000, 40_000, (asked.batch_size, asked.positions))
    ids[:, -1] = 49407
    masked = ids.clone()
    masked[:, asked.positions // 2] = PLACEHOLDER_ID

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=asked.precision == "bf16"):
            features = objective(clip, mapper, Batch(masked, caption_ids=ids), 0)
        objective.loss(*features).backward()

    step()
    return alternate({"step": step}, 3, device)["step"]


if __name__ == "__main__":
    main()
