"""Embeddings in parts, in the layout of clip-retrieval, which autofaiss indexes on one machine or on Spark.

    img_emb/img_emb_N.npy            [n, E] unit rows, in half precision
    metadata/metadata_N.parquet      `image_path` of each row

The parts follow one another in the order of their names, as autofaiss reads them: a picture's place among them all is
its number in the index that is built from them. Machines that share the work write parts of other numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from context_i2w.errors import UserError, extra
from context_i2w.files import FileState, atomic_path, file_state, shown
from context_i2w.model.clip import FrozenCLIP
from context_i2w.search.files import Files

ROWS = 1 << 18  # of a part
BLOCK = 1 << 14  # rows read at once
EMBEDDINGS, METADATA = "img_emb", "metadata"


def write_parts(folder: Path, names: list[str], features: np.ndarray, about: dict[str, str], first: int) -> list[Path]:
    """Writes paths and unit rows [n, E] from part `first` on; about: which CLIP they are of. Returns the files."""
    pa, pq = pyarrow()
    written = []
    for number, start in enumerate(range(0, len(names), ROWS), first):
        schema = pa.schema([("image_path", pa.string())], metadata=about)
        embeddings = folder / EMBEDDINGS / f"{EMBEDDINGS}_{number:05d}.npy"
        metadata = folder / METADATA / f"{METADATA}_{number:05d}.parquet"
        with atomic_path(metadata) as temporary, open(temporary, "wb") as file:  # pyarrow's own paths are UTF-8 alone
            pq.write_table(pa.table([names[start : start + ROWS]], schema=schema), file)
        with atomic_path(embeddings) as temporary, open(temporary, "wb") as file:
            np.save(file, features[start : start + ROWS].astype(np.float16))
        written += [embeddings, metadata]
    return written


@dataclass(frozen=True)
class PartFiles(Files):
    """Pictures by their `image_path`, whose embeddings are there already."""

    parts: tuple[tuple[Path, tuple[str, ...]], ...] = ()  # embeddings and names of each
    clip: str | None = None  # hash of the weights that made them, if it is known

    def rows(self, clip: FrozenCLIP) -> Iterator[tuple[list[str], np.ndarray]]:
        """Names and unit rows [b, E] float32 in the order of parts. Raises UserError for what another CLIP made."""
        width = clip.sizes.embed_dim
        if self.clip not in (None, clip.weights_hash):
            raise UserError(f"{self.root}: embeddings by another CLIP than {clip.name}; name the one that made them")
        for path, names in self.parts:
            found = np.load(path, mmap_mode="r")
            if found.ndim != 2 or found.shape != (len(names), width):
                raise UserError(f"{path}: {found.shape}, not {width} numbers for each of {len(names)} pictures")
            for start in range(0, len(names), BLOCK):
                block = np.asarray(found[start : start + BLOCK], np.float32)
                block = block / np.linalg.norm(block, axis=1, keepdims=True)
                if not np.isfinite(block).all():
                    raise UserError(f"{path}: embeddings that are zero or not finite after row {start}; leave them out")
                yield list(names[start : start + BLOCK]), block


def is_parts(folder: Path) -> bool:
    return (folder / EMBEDDINGS).is_dir() and (folder / METADATA).is_dir()


def files_of_parts(folder: Path) -> PartFiles:
    """Raises UserError for parts that are damaged or do not go together."""
    parts: list[tuple[Path, tuple[str, ...]]] = []
    states: dict[str, FileState] = {}
    clips: set[bytes | None] = set()
    for path in sorted((folder / EMBEDDINGS).glob("*.npy")):
        metadata = folder / METADATA / path.with_suffix(".parquet").name.replace(EMBEDDINGS, METADATA)
        names, about = _read_names(metadata)
        clips.add(about.get(b"clip_sha256"))
        parts.append((path, names))
        known, state = len(states), file_state(path)
        states |= dict.fromkeys(names, state)
        if len(states) != known + len(names):
            raise UserError(f"{metadata}: an image_path occurs twice, here or in an earlier part; leave one out")
    if not states or len(clips) > 1:
        reason = f"embeddings by {len(clips)} CLIPs; keep those of one" if states else f"no embeddings in {EMBEDDINGS}/"
        raise UserError(f"{folder}: {reason}")
    [clip] = clips
    return PartFiles(folder, states, str(folder), parts=tuple(parts), clip=None if clip is None else clip.decode())


def _read_names(path: Path) -> tuple[tuple[str, ...], dict[bytes, bytes]]:
    _, pq = pyarrow()
    try:
        table = pq.read_table(path, columns=["image_path"])
    except Exception as error:  # pyarrow's own and the system's
        raise UserError(f"{path}: no image_path can be read ({shown(str(error))}); make it anew") from None
    return tuple(map(str, table["image_path"].to_pylist())), table.schema.metadata or {}


def pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises MissingExtra."""
    with extra("faiss"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    return pa, pq
