"""Features for other vector databases: Parquet, .npy with a list of names beside it, or parts (parts.py)."""

import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from context_i2w.errors import UserError
from context_i2w.files import atomic_path, is_text, shown, write_text
from context_i2w.search.parts import pyarrow, write_parts

BLOCK = 1 << 14  # rows written at once


def export(path: Path, names: list[str], features: np.ndarray, about: dict[str, str], part: int = 0) -> list[Path]:
    """Writes names and unit rows [n, E]; returns the files written.

    FILE.parquet: columns `path` and `feature` (fixed-size list of float32), `about` as the schema's metadata.
    FILE.npy: the matrix; beside it FILE.json with `paths` and `about`. A path without suffix: a folder of parts, the
    first of them of number `part`. Raises UserError for another suffix, or names that Parquet does not hold.
    """
    if path.suffix not in ("", ".parquet", ".npy"):
        raise UserError(f"{path}: features are exported to a .parquet or .npy file, or to a folder")
    if path.suffix == ".npy":
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, features)
        beside = path.with_suffix(".json")
        write_text(beside, json.dumps({**about, "paths": names}, indent=1) + "\n")
        return [path, beside]
    if not path.suffix:
        names = list(map(os.path.abspath, names))  # they are read from other folders than they were typed in
    if odd := next((name for name in names if not is_text(name)), ""):
        raise UserError(f"{shown(odd)}: Parquet holds names in UTF-8 alone; rename the picture, or export to FILE.npy")
    if not path.suffix:
        return write_parts(path, names, features, about, part)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        _parquet(file, names, features, about)
    return [path]


def _parquet(file: BinaryIO, names: list[str], features: np.ndarray, about: dict[str, str]) -> None:
    pa, pq = pyarrow()
    width = features.shape[1]
    schema = pa.schema([("path", pa.string()), ("feature", pa.list_(pa.float32(), width))], metadata=about)
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(names), BLOCK):
            block = pa.array(np.ascontiguousarray(features[start : start + BLOCK]).reshape(-1), pa.float32())
            rows = pa.FixedSizeListArray.from_arrays(block, width)
            writer.write_table(pa.table([pa.array(names[start : start + BLOCK]), rows], schema=schema))
