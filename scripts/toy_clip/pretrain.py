"""Pretrains the tiny CLIP of the toy world from nothing; the shipped file was made by the first command.

    python scripts/toy_clip/pretrain.py                              # about 20 minutes on two cores
    python scripts/toy_clip/pretrain.py --steps 300 --images 4000 --output /tmp/try   # a short try
    python scripts/toy_clip/probe.py                                 # what it learned

Loss: CLIP's contrastive loss over images and captions, and the image classified against a bank of prompts
(kind × domain, colour × kind, pattern × kind, length × garment, background × domain). For the first part of the
steps most images show one thing; later half the batches share domain and background, or domain and kind, so that
the factor that differs must be learned. Bounded by steps; writes toy_clip.safetensors and pretrain.log.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from context_i2w.command_line import Options, nested, option, parse
from context_i2w.errors import exit_on_user_error


@dataclass(frozen=True)
class Recipe(Options):
    """How the tiny CLIP is trained."""

    steps: int = option(1900, "updates", at_least=1)
    images: int = option(44_000, "drawn", at_least=1)
    captions: int = option(6, "per image", at_least=1)
    # so that the placeholder has a meaningful word vector
    masked_share: float = option(0.08, "of captions", at_least=0, at_most=1)
    batch: int = option(256, "images of a step", at_least=8)
    learning_rate: float = option(1e-3, "at its peak", above=0)
    warmup: int = option(150, "steps until then", at_least=1)
    weight_decay: float = option(0.1, "of matrices", at_least=0)
    single_until: float = option(0.3, "share of the steps in which most images show one thing", at_least=0, at_most=1)
    bank_weight: float = option(0.5, "of each bank's loss", at_least=0)
    precision: str = option("bf16", "of the towers", choices=("bf16", "fp32"))
    seed: int = option(0, "of everything drawn", at_least=0)


@dataclass(frozen=True)
class PretrainingOptions(Options):
    recipe: Recipe = nested(Recipe, "recipe")
    output: Path | None = option(None, "left out: where the shipped one is", metavar="DIR")
    threads: int = option(2, "on the CPU", at_least=1)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(PretrainingOptions, argv, prog="python scripts/toy_clip/pretrain.py", description=__doc__)
    import torch  # --help does without

    from context_i2w.model.clip_weights import TOY_FOLDER
    from pretraining import pretrain

    torch.set_num_threads(asked.threads)
    config = json.loads((TOY_FOLDER / "toy_clip.json").read_text())
    pretrain(asked.recipe, config, asked.output or TOY_FOLDER)


if __name__ == "__main__":
    main()
