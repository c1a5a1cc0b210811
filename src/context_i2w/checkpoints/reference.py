"""Which CLIP a checkpoint belongs to: by name, by the hash of its weights and by what its weights do not say."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from context_i2w.errors import UserError
from context_i2w.files import misfit, shown
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.file_facts import tag_configuration
from context_i2w.model.identity import transform_of

CLIP_SHAPE = {"model": str, "pretrained?": str | None, "weights_hash?": str | None, "configuration?": dict | None}
_CONFIGURATION = {"activation": str, "size": int, "mean": [float], "std": [float], "interpolation": str}
_CONFIGURATION |= {"resize_mode": str, "fill": int}


@dataclass(frozen=True)
class CLIPReference:
    """A CLIP by name: enough to load it again and to see that it is the same."""

    model: str
    pretrained: str | None
    weights_hash: str | None = None
    configuration: dict[str, Any] | None = field(default=None, compare=False)  # CLIPIdentity's; older files have none

    @classmethod
    def of(cls, clip: FrozenCLIP, model: str, pretrained: str | None) -> CLIPReference:
        """The reference to a CLIP that was loaded under these names."""
        return cls(model, pretrained, clip.weights_hash, clip.identity.configuration)

    def known_configuration(self) -> dict[str, Any] | None:
        """The one written down, else that of the tag; None for a weights file without one."""
        return self.configuration or tag_configuration(self.model, self.pretrained)

    def difference(self, clip: FrozenCLIP) -> str | None:
        """What tells a CLIP from this one, for an error's line; None if nothing does."""
        if self.weights_hash and clip.weights_hash != self.weights_hash:
            return f"{self.model} {self.weights_hash[:12]}, not {clip.name} {clip.weights_hash[:12]}"
        known, own = self.known_configuration() or {}, clip.identity.configuration
        differing = [key for key, value in known.items() if own.get(key) != value]
        return ", ".join(f"its {key} {known[key]}, not {own.get(key)}" for key in differing) or None

    def weights(self, folder: Path | None) -> str | None:
        """The tag or file of its weights; a file that a shared `folder` names is looked for there and nowhere else."""
        if folder is None or self.pretrained is None:
            return self.pretrained
        beside = os.path.join(folder, self.pretrained)
        is_tag = not os.path.isfile(beside) and tag_configuration(self.model, self.pretrained)
        return self.pretrained if is_tag else beside


def read_reference(content: dict[str, Any], where: str) -> CLIPReference:
    """From values of CLIP_SHAPE. Raises UserError naming the entry that no CLIP of ours can have."""
    weights_hash, configuration = content.get("weights_hash"), content.get("configuration")
    if not re.fullmatch("[0-9a-f]*", weights_hash or ""):
        raise UserError(f"{where}: clip.weights_hash is {shown(str(weights_hash))}, not a SHA-256")
    if configuration is not None:
        check_shape(configuration, _CONFIGURATION, f"{where}: clip.configuration")
        try:
            transform_of(configuration, configuration["size"])
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: clip.configuration: {error}") from None
    return CLIPReference(content["model"], content.get("pretrained"), weights_hash, configuration)


def check_shape(content: Any, shape: dict[str, Any], where: str) -> None:
    """Raises UserError naming the entry that is missing or of another type than declared (see `misfit`)."""
    fault = misfit(content, shape)
    if fault:
        raise UserError(f"{where}: {fault.replace('it has no', 'lacks')}; the file is damaged or of another kind")
