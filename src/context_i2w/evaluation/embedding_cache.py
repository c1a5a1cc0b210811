"""A benchmark's image embeddings on disk, so that evaluating another mapper need not see the gallery again.

One file for one CLIP, preparation, precision and set of image files; its name is the hash of all that, so embeddings
of anything else, or of a file that was changed since, are never read.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from context_i2w.errors import UserError, one_line
from context_i2w.files import atomic_path, check_writable, checksum, file_state, note, shown
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.images import ImageSource


class EmbeddingCache:
    """The embeddings [I, E] float32 of these images, in their order."""

    def __init__(self, folder: Path, name: str, clip: FrozenCLIP, precision: str, sources: Sequence[ImageSource]):
        """Raises UserError, before anything is encoded, if there can't be such a folder."""
        key = [clip.name, clip.identity.hash, *clip.transform, precision]
        digest = hashlib.sha256(json.dumps([*key, PIL.__version__]).encode())
        states = {path: [os.path.abspath(path), *file_state(path)] for path in {source.path for source in sources}}
        for source in sources:
            digest.update(json.dumps([states[source.path], source.box, source.view]).encode())
        self.path = folder / f"{name}-{digest.hexdigest()[:32]}.safetensors"
        if not self.path.is_file():
            check_writable(self.path, "--feature-cache")
        self.shape = (len(sources), clip.sizes.embed_dim)

    def read(self) -> torch.Tensor | None:
        """None if they are not there yet, or damaged, which a line says."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                found, about = file.get_tensor("embeddings"), file.metadata() or {}
        except SafetensorError as error:
            note(f"{self.path}: damaged ({shown(str(error))}); its images are seen anew")
            return None
        if found.shape != self.shape or about.get("checksum", _sum(found)) != _sum(found):
            note(f"{self.path}: damaged; its images are seen anew")
            return None
        if "checksum" not in about:
            note(f"{self.path}: written by an earlier version, without a checksum; delete it to have it made anew")
        return found

    def write(self, embeddings: torch.Tensor) -> None:
        """Whole or not at all; a disk that got full meanwhile costs the cache alone."""
        embeddings = embeddings.float().cpu().contiguous()
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(save({"embeddings": embeddings}, {"checksum": _sum(embeddings)}))
        except UserError as error:
            note(f"{one_line(error)}; the embeddings are not kept")


def _sum(embeddings: torch.Tensor) -> str:
    return str(checksum(embeddings.numpy()))
