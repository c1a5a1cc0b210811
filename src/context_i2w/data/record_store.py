"""Records of one size on disk: memory-mapped shards, written once; an interrupted writer goes on where it was.

A store is a folder:
    key.json            what the records depend on
    shard-NNNNN.bin     the records of SHARD_ROWS rows
    shard-NNNNN.part    a shard that is being written
    lock                held by the one process that writes
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from context_i2w.errors import UserError

SHARD_ROWS = 4096
EMPTY, VALID, BROKEN = 0, 1, 2  # state of a record
STAMP = "key.json"

# Batches of row numbers -> for each batch which rows are valid [n] and the fields of their records.
Encode = Callable[[list[list[int]]], Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]]


class RecordStore:
    """`rows` records with the given fields and a state of their own."""

    def __init__(self, folder: Path, rows: int, fields: Sequence[tuple], key: Mapping[str, Any]):
        """fields: of a numpy record type, sequences of (name, type, shape); key: what the records depend on."""
        self.folder, self.rows, self.key = folder, rows, json.loads(json.dumps(key))
        self.record = np.dtype([("state", np.uint8), *fields], align=True)
        self.shards: list[Tensor] = []  # [rows, bytes of a record] each

    def fill(self, encode: Encode, batch_size: int, title: str) -> None:
        """Writes the records that are not there yet.

        Of several runs that fill the same store one writes, the others wait for it and find it written.
        Raises UserError if the folder holds records of another key, or has no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / "lock"):
            self._claim()
            todo = [shard for shard in range(self.shard_count) if not self._path(shard).is_file()]
            if not todo:
                return
            done = self.rows - sum(len(self._rows(shard)) for shard in todo)
            with tqdm(total=self.rows, initial=done, desc=title, unit="row", dynamic_ncols=True) as bar:
                for shard in todo:
                    self._write(shard, encode, batch_size, bar)

    def open(self) -> "RecordStore":
        """Maps the shards. Raises UserError if some are missing or cut short."""
        for shard in range(self.shard_count):
            path, size = self._path(shard), len(self._rows(shard)) * self.record.itemsize
            if not path.is_file() or path.stat().st_size != size:
                raise UserError(f"{path}: missing from the feature cache, or cut short; delete it and run again")
            # Not np.memmap: it keeps a file open for every shard.
            mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
            self.shards.append(mapped.view(-1, self.record.itemsize))
        return self

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Records of the rows, in their order."""
        found = torch.empty(len(rows), self.record.itemsize, dtype=torch.uint8)
        shards, places = torch.from_numpy(rows // SHARD_ROWS), torch.from_numpy(rows % SHARD_ROWS)
        for shard in shards.unique().tolist():
            here = (shards == shard).nonzero()[:, 0]
            found.index_copy_(0, here, self.shards[shard].index_select(0, places[here]))
        return found.numpy().view(self.record)[:, 0]

    @property
    def shard_count(self) -> int:
        return -(-self.rows // SHARD_ROWS)

    def _rows(self, shard: int) -> np.ndarray:
        return np.arange(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, self.rows))

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.bin"

    def _write(self, shard: int, encode: Encode, batch_size: int, bar: tqdm) -> None:
        rows, partial = self._rows(shard), self._path(shard).with_suffix(".part")
        size = len(rows) * self.record.itemsize
        if not partial.is_file() or partial.stat().st_size != size:
            _reserve(partial, size)
        records = np.memmap(partial, self.record, "r+", shape=len(rows))
        todo = np.flatnonzero(records["state"] == EMPTY)
        bar.update(len(rows) - len(todo))
        batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
        encoded = encode([rows[batch].tolist() for batch in batches])
        for places, (valid, fields) in zip(batches, encoded, strict=True):
            for name, values in fields.items():
                records[name][places] = values
            records["state"][places] = np.where(valid, VALID, BROKEN)  # last: the record is whole
            bar.update(len(places))
        records.flush()
        del records
        os.replace(partial, self._path(shard))

    def _claim(self) -> None:
        stamp = self.folder / STAMP
        if stamp.is_file():
            found = read_key(self.folder)
            differs = [name for name, value in self.key.items() if found.get(name) != value]
            if differs:
                raise UserError(
                    f"{self.folder}: features of another {', '.join(differs)}; delete the folder or name another one"
                )
            return
        temporary = stamp.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.key, indent=1))
        os.replace(temporary, stamp)


def read_key(folder: Path) -> dict[str, Any]:
    """What the records in a folder depend on; empty if there are none."""
    stamp = folder / STAMP
    return json.loads(stamp.read_text()) if stamp.is_file() else {}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, by a kill too
        yield


def _reserve(path: Path, size: int) -> None:
    """A file of so many zero bytes that are there: a mapped file that meets a full disk would kill the process."""
    try:
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path.parent}: no room for the next {size / 1e9:.2g} GB of features ({error.strerror}); make room, name "
            "another folder, or take --cache-precision int8"
        ) from None
