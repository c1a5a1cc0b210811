"""Cost of training φ from captions alone: the FLOP model's, and the rate of our step on this machine.

python scripts/measure/text_only.py --batch-size 8 --positions 20
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import exit_on_user_error

UPDATES = 20_000 * 512  # captions of the recipe


@dataclass(frozen=True)
class TextOptions(Options):
    batch_size: int = option(8, "captions of a step", at_least=1)
    positions: int = option(20, "of the longest caption of a batch", at_least=3, at_most=77)
    model: str | None = option(None, "measure this one's step, with random weights", metavar="NAME")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(TextOptions, argv, prog="python scripts/measure/text_only.py", description=__doc__)
    import torch  # --help does without

    from step_work import text_only_step, tower_shape

    for model in ("ViT-L-14", "ViT-bigG-14"):
        for positions in (asked.positions, 77):
            work = text_only_step(tower_shape(model), positions, positions)
            print(f"{model}, {positions} positions: {work / 1e9:.1f} GFLOP a caption, {work * UPDATES:.2e} in all")
    if asked.model:
        rate = measured(asked.model, asked.batch_size, asked.positions)
        print(f"{asked.model} here: {rate / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads")


def measured(model: str, size: int, positions: int) -> float:
    """Operations a second, the median of three steps."""
    import torch

    from context_i2w.data.batch import Batch
    from context_i2w.model.clip_weights import load_clip
    from context_i2w.model.mappers import Phi
    from context_i2w.model.prompts import PLACEHOLDER_ID
    from context_i2w.training.text_only import TextOnly, TextOnlyOptions
    from step_work import text_only_step, tower_shape

    clip = load_clip(model, None)
    mapper, objective = Phi(clip.sizes), TextOnly(clip, TextOnlyOptions(parser="rules"))
    ids = torch.randint(1000, 40_000, (size, positions))
    ids[:, -1] = 49407
    masked = ids.clone()
    masked[:, positions // 2] = PLACEHOLDER_ID
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        objective.loss(*objective(clip, mapper, Batch(masked, caption_ids=ids), 0)).backward()
        seconds.append(time.perf_counter() - begun)
    return size * text_only_step(tower_shape(model), positions, positions) / statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
