"""Cost of training φ from captions alone: the FLOP model's, and the rate of our step on this machine.

python scripts/measure/text_only.py --batch-size 8 --positions 20
"""

import context_i2w  # noqa: F401  (first: torch's waiting threads then sleep)

# isort: split
import argparse
import statistics
import time

import torch

from context_i2w.data.pairs import Batch
from context_i2w.model.clip_weights import load_clip
from context_i2w.model.flops import text_only_step, tower_shape
from context_i2w.model.mappers import Phi
from context_i2w.model.prompts import PLACEHOLDER_ID
from context_i2w.training.text_only import TextOnly, TextOnlyOptions

UPDATES = 20_000 * 512  # captions of the recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--positions", type=int, default=20, help="of the longest caption of a batch")
    parser.add_argument("--model", help="measure this one's step, with random weights")
    arguments = parser.parse_args()
    for model in ("ViT-L-14", "ViT-bigG-14"):
        for positions in (arguments.positions, 77):
            work = text_only_step(tower_shape(model), positions, positions)
            print(f"{model}, {positions} positions: {work / 1e9:.1f} GFLOP a caption, {work * UPDATES:.2e} in all")
    if arguments.model:
        rate = measured(arguments.model, arguments.batch_size, arguments.positions)
        print(f"{arguments.model} here: {rate / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads")


def measured(model: str, size: int, positions: int) -> float:
    """Operations a second, the median of three steps."""
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
