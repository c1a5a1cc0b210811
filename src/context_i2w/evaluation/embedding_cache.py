"""A benchmark's image embeddings on disk, so that evaluating another mapper need not see the gallery again.

One file for one CLIP, preparation, precision and set of image files; its name is the hash of all that, so embeddings
of anything else, or of a file that was changed since, are never read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import PIL
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from context_i2w.errors import UserError
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.images import ImageSource


class EmbeddingCache:
    """The embeddings [I, E] float32 of these images, in their order."""

    def __init__(self, folder: Path, name: str, clip: FrozenCLIP, precision: str, sources: Sequence[ImageSource]):
        """Raises UserError, before anything is encoded, if there can't be such a folder."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--feature-cache {folder}: can't be made ({error.strerror})") from None
        key = [clip.name, clip.weights_hash, clip.sizes.image_size, clip.image_mean, clip.image_std, precision]
        digest = hashlib.sha256(json.dumps([*key, PIL.__version__]).encode())
        states = {path: _state(path) for path in {source.path for source in sources}}
        for source in sources:
            digest.update(json.dumps([states[source.path], source.box, source.view]).encode())
        self.path = folder / f"{name}-{digest.hexdigest()[:32]}.safetensors"

    def read(self) -> torch.Tensor | None:
        """None if they are not there yet. Raises UserError for a damaged file."""
        if not self.path.is_file():
            return None
        try:
            return load_file(self.path)["embeddings"]
        except (SafetensorError, KeyError) as error:
            raise UserError(f"{self.path}: not readable ({error}); delete it") from None

    def write(self, embeddings: torch.Tensor) -> None:
        """In one step, so that an interrupted run leaves no half file."""
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        save_file({"embeddings": embeddings.float().cpu().contiguous()}, temporary)
        os.replace(temporary, self.path)


def _state(path: str) -> tuple[str, int, int]:
    """Where a file is, its size and the time of its last change."""
    status = os.stat(path)
    return os.path.abspath(path), status.st_size, status.st_mtime_ns
