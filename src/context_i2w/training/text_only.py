"""The text objective: LinCIR's training from captions alone (arXiv 2312.01998, Self-Masking Projection).

The mapper is fed the caption's own embedding with noise in place of an image's; its word, put into all places of the
masked caption, has to give back the embedding of the caption.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from context_i2w.command_line import Options, option
from context_i2w.data.batch import Batch
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.mappers import Mapper
from context_i2w.preparation.masking.self_masking import MASKINGS, PARSERS, SelfMasker
from context_i2w.training.objective import Objective

NOISES = ("lincir", "none")


@dataclass(frozen=True)
class TextOnlyOptions(Options):
    """The defaults train as published, but for masks that stay out of other words."""

    noise: str = option("lincir", f"on the embedding, {' or '.join(NOISES)}: U(0,1) · N(0,1)", choices=NOISES)
    masking: str = option("offsets", f"how words are masked, {' or '.join(MASKINGS)} (its code)", choices=MASKINGS)
    parser: str = option("auto", f"what finds them, {', '.join(PARSERS)}: spaCy if installed", choices=PARSERS)


class TextOnly(Objective):
    """For mappers that read the image's embedding alone: φ, Pic2Word."""

    name, title, paper = "text", "text only", "https://arxiv.org/abs/2312.01998"
    Options = TextOnlyOptions
    recipe: ClassVar[dict[str, Any]] = {
        "mapper": "phi", "lr": 1e-4, "wd": 0.01, "warmup": 0, "schedule": "constant", "decay": "all", "beta2": 0.999,
        "eps": 1e-8, "steps": 20_000, "batch_size": 512,
    }  # fmt: skip
    toy_recipe: ClassVar[dict[str, Any]] = {
        "lr": 3e-3, "steps": None, "epochs": 2, "batch_size": 256, "training_text": "published",
        "objective_option": {"parser": "rules"},
    }  # fmt: skip
    reads_images = False

    def __init__(self, clip: FrozenCLIP, options: Any = None, training_text: str = "published"):
        super().__init__(clip, options)
        self.loss = SquaredError()
        self.masker = SelfMasker(self.options.masking, self.options.parser, clip.sizes.context_length)

    def forward(self, clip: FrozenCLIP, mapper: Mapper, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        assert batch.caption_ids is not None  # batches are of data/captions.py
        text = clip.encode_text(batch.caption_ids)
        word = mapper(None, ImageFeatures(self.noised(text), None))
        return text, clip.compose(batch.condition_ids, word)

    def noised(self, text: Tensor) -> Tensor:
        """Embeddings [B, E] plus a normal vector each, scaled by a uniform number each; as they are in validation."""
        if not self.training or self.options.noise == "none":
            return text
        scale = torch.rand(len(text), 1, device=text.device)
        return text + scale * torch.randn(text.shape, device=text.device)


class SquaredError(nn.Module):
    """Mean of (r − t)² over texts and components [G, E], neither normalised; in float32."""

    def forward(self, targets: Tensor, texts: Tensor) -> Tensor:
        return F.mse_loss(texts.float(), targets.float())
