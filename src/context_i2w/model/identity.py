"""What a CLIP is, beyond its name: its tensors, its activation and how images become its input.

The same tensors under another activation or another transform are another CLIP: checkpoints name this identity, caches
and indexes are kept under its hash, and guards compare it. Words are always CLIP's byte pairs (`backbones.py`).
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from context_i2w.model.images import ImageTransform

QUICK_GELU, GELU = "QuickGELU", "GELU"
# Input size, image tokens, vision width, joint width and text width of OpenAI's vision transformers.
OPENAI_SIZES = {
    (224, 50, 768, 512, 512),
    (224, 197, 768, 512, 512),
    (224, 257, 1024, 768, 768),
    (336, 577, 1024, 768, 768),
}


@dataclass(frozen=True)
class CLIPIdentity:
    """Equal for equal features."""

    weights: str  # SHA-256 over names and values of all tensors
    activation: str  # QUICK_GELU or GELU
    transform: ImageTransform
    context_length: int
    openai_sizes: bool  # whether its towers are of one of OPENAI_SIZES

    @property
    def configuration(self) -> dict[str, Any]:
        """What the tensors do not say, as plain values for a checkpoint or a JSON file."""
        return {"activation": self.activation} | plain(self.transform)

    @property
    def hash(self) -> str:
        """One word for caches and indexes.

        The tensors' own SHA-256, as before there were identities, for CLIP's transform with QuickGELU in towers of
        OpenAI's sizes and GELU in others; a hash of tensors and configuration for all else.
        """
        standard = QUICK_GELU if self.openai_sizes else GELU
        if self.activation == standard and self.transform == clip_transform(self.transform.size):
            return self.weights
        return hashlib.sha256(json.dumps([self.weights, self.configuration]).encode()).hexdigest()


def clip_transform(size: int) -> ImageTransform:
    """CLIP's own: shorter side resized, bicubic, centre crop, its mean and std."""
    return ImageTransform(size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)


def transform_of(preprocess: dict[str, Any], size: int) -> ImageTransform:
    """open_clip's `preprocess_cfg`, CLIP's values where it leaves one out. Raises ValueError for unknown values."""
    given = clip_transform(size)._asdict() | {
        "fill" if key == "fill_color" else key: tuple(map(float, value)) if key in ("mean", "std") else value
        for key, value in preprocess.items()
        if key in ("mean", "std", "interpolation", "resize_mode", "fill", "fill_color") and value is not None
    }
    if given["interpolation"] == "random":  # in training; bicubic otherwise
        given["interpolation"] = "bicubic"
    transform = ImageTransform(**given)
    transform.check()
    return transform


def plain(transform: ImageTransform) -> dict[str, Any]:
    """As JSON holds it."""
    return transform._asdict() | {"mean": list(transform.mean), "std": list(transform.std)}
