"""Small pictures of a gallery, kept beside its features: made while indexing, when the picture is decoded anyway.

One JPEG per picture, named by a hash of its name, size and time, so that a changed file never shows its old picture.
They are a convenience: where one can't be written or is gone, it is made again when it is asked for.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from context_i2w.files import FileState

SIZE = 256  # pixels of the longer side


def thumbnail(image: Image.Image) -> bytes:
    """A JPEG no larger than SIZE on either side; smaller pictures keep their size."""
    small = image.convert("RGB")  # a copy in any case
    small.thumbnail((SIZE, SIZE), Image.Resampling.BICUBIC)
    return jpeg(small)


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    return out.getvalue()


class Thumbnails:
    """The folder described above. Holds only its path, so it can be sent to the processes that read pictures."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, name: str, state: FileState) -> bytes | None:
        try:
            return self._path(name, state).read_bytes() or None
        except OSError:
            return None

    def write(self, name: str, state: FileState, content: bytes) -> None:
        """Whole or not at all; a full disk or a folder that can't be written is no reason to stop."""
        path = self._path(name, state)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def keep_only(self, states: Mapping[str, FileState]) -> None:
        """Removes those of pictures that are gone or have changed, and what a kill left half written."""
        wanted = {self._path(name, state) for name, state in states.items()}
        for path in self.folder.glob("*/*"):
            if path not in wanted:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path(self, name: str, state: FileState) -> Path:
        key = hashlib.sha256(os.fsencode(f"{name}\0{state.size}\0{state.mtime_ns}")).hexdigest()[:32]
        return self.folder / key[:2] / f"{key[2:]}.jpg"
