"""Records of one size on disk: memory-mapped shards, written once; an interrupted writer goes on where it was.

A store is a folder:
    key.json            what the records depend on
    shard-NNNNN.bin     the records of SHARD_ROWS rows, and behind them what each is checked by (TRAILER)
    shard-NNNNN.part    a shard that is being written
    lock                held by the one process that writes
The trailer holds for each row the size and time of the file that it was made from, so that a row whose file has changed
is made anew, and a checksum, verified when the row is first read. Shards of earlier versions have no trailer.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from context_i2w.errors import UserError
from context_i2w.files import (
    atomic_path,
    checksum,
    checksums,
    disk_errors,
    locked,
    note,
    read_json,
    reserve,
    write_text,
)

SHARD_ROWS = 4096
EMPTY, VALID, BROKEN = 0, 1, 2  # state of a record
STAMP = "key.json"
TRAILER = np.dtype([("size", "<i8"), ("mtime", "<i8"), ("sum", "<u4")])
END = 4  # bytes behind the trailer: its own checksum

# Batches of row numbers -> for each batch which rows are valid [n] and the fields of those.
Encode = Callable[[list[list[int]]], Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]]


class RecordStore:
    """`rows` records with the given fields and a state of their own."""

    def __init__(self, folder: Path, rows: int, fields: Sequence[tuple], key: Mapping[str, Any]):
        """fields: of a numpy record type, sequences of (name, type, shape); key: what the records depend on."""
        self.folder, self.rows, self.key = folder, rows, json.loads(json.dumps(key))
        self.record = np.dtype([("state", np.uint8), *fields], align=True)
        self.shards: list[np.ndarray] = []  # [rows, bytes of a record] each
        self.sums: list[np.ndarray | None] = []  # [rows] each
        self.verified = np.zeros(0, bool)  # [rows]

    def fill(self, encode: Encode, batch_size: int, title: str, states: np.ndarray | None = None) -> None:
        """Writes the records that are not there yet, or whose file has changed; nothing if all are there.

        states [rows, 2]: size and time of each row's file, -1 where it is gone; None where records come from none.
        Of several runs that fill the same store one writes, the others wait for it and find it written.
        Raises UserError if the folder holds records of another key, or has no room.
        """
        states = np.zeros((self.rows, 2), np.int64) if states is None else states
        if self._is_claimed() and not self._todo(states):
            return
        with locked(self.folder / "lock"):
            if not self._is_claimed():
                write_text(self.folder / STAMP, json.dumps(self.key, indent=1))
            todo = self._todo(states)
            for partial in self.folder.glob("shard-*.part"):
                if not any(partial == self._path(shard).with_suffix(".part") for shard in todo):
                    partial.unlink()
            done = self.rows - sum(map(len, todo.values()))
            there = sum(len(self._rows(shard)) for shard in todo if self._path(shard).is_file())
            if there:
                changed = sum(len(rows) for shard, rows in todo.items() if self._path(shard).is_file())
                note(f"{self.folder}: {changed} images have changed since they were cached; they are read anew")
            with tqdm(total=self.rows, initial=done, desc=title, unit="row", dynamic_ncols=True) as bar:
                for shard in todo:
                    self._write(shard, encode, batch_size, bar, states)

    def open(self) -> "RecordStore":
        """Maps the shards. Raises UserError if some are missing, cut short or damaged."""
        self.shards, self.sums = [], []
        self.verified = np.zeros(self.rows, bool)
        for shard in range(self.shard_count):
            path, trailer = self._path(shard), self._trailer(shard)
            if trailer is None and not (path.is_file() and path.stat().st_size == self._size(shard, old=True)):
                raise UserError(f"{path}: missing from the feature cache, or cut short; delete it and run again")
            # Not np.memmap: it keeps a file open for every shard.
            size = len(self._rows(shard)) * self.record.itemsize
            mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
            self.shards.append(mapped.view(-1, self.record.itemsize).numpy())
            self.sums.append(None if trailer is None else trailer["sum"])
        if any(sums is None for sums in self.sums):
            note(f"{self.folder}: written by an earlier version, without checksums; delete it to have it made anew")
        return self

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Records of the rows, in their order. Raises UserError for one that is damaged."""
        found = np.empty((len(rows), self.record.itemsize), np.uint8)
        for number, row in enumerate(rows.tolist()):  # each copied once: selecting from all shards copies twice
            shard, place = divmod(row, SHARD_ROWS)
            found[number] = self.shards[shard][place]
        self._verify(rows, found)
        return found.view(self.record)[:, 0]

    @property
    def shard_count(self) -> int:
        return -(-self.rows // SHARD_ROWS)

    def _verify(self, rows: np.ndarray, found: np.ndarray) -> None:
        """Each row once an opening: checking whole shards before the first batch would read the whole cache."""
        fresh = np.flatnonzero(~self.verified[rows])
        for row, found_sum in zip(rows[fresh].tolist(), checksums(found[fresh]).tolist() if len(fresh) else []):
            shard, number = divmod(row, SHARD_ROWS)
            if self.sums[shard] is not None and found_sum != self.sums[shard][number]:
                path = self._path(shard)
                raise UserError(f"{path}: row {number} is damaged; delete the file, and it alone is written again")
        self.verified[rows] = True

    def _rows(self, shard: int) -> np.ndarray:
        return np.arange(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, self.rows))

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.bin"

    def _size(self, shard: int, old: bool = False) -> int:
        rows = len(self._rows(shard))
        return rows * self.record.itemsize + (0 if old else rows * TRAILER.itemsize + END)

    def _trailer(self, shard: int) -> np.ndarray | None:
        """None for a shard of an earlier version, or none at all. Raises UserError if it is damaged."""
        path, rows = self._path(shard), len(self._rows(shard))
        if not path.is_file() or path.stat().st_size != self._size(shard):
            return None
        with open(path, "rb") as file:
            file.seek(rows * self.record.itemsize)
            content, end = file.read(rows * TRAILER.itemsize), file.read(END)
        if checksum(content) != int.from_bytes(end, "little"):
            raise UserError(f"{path}: damaged; delete the file, and it alone is written again")
        return np.frombuffer(content, TRAILER)

    def _todo(self, states: np.ndarray) -> dict[int, np.ndarray]:
        """Shard -> numbers of its rows that are missing or out of date; only shards that have any."""
        todo = {}
        for shard in range(self.shard_count):
            rows = self._rows(shard)
            if not self._path(shard).is_file():
                todo[shard] = np.arange(len(rows))
            elif (trailer := self._trailer(shard)) is not None and len(stale := _stale(trailer, states[rows])):
                todo[shard] = stale
        return todo

    def _write(self, shard: int, encode: Encode, batch_size: int, bar: tqdm, states: np.ndarray) -> None:
        rows, partial = self._rows(shard), self._path(shard).with_suffix(".part")
        self._begin(shard, partial)
        whole = np.memmap(partial, np.uint8, "r+")
        records = whole[: len(rows) * self.record.itemsize].view(self.record)
        trailer = whole[len(rows) * self.record.itemsize : -END].view(TRAILER)
        records["state"][_stale(trailer, states[rows])] = EMPTY
        todo = np.flatnonzero(records["state"] == EMPTY)
        bar.update(0 if self._path(shard).is_file() else len(rows) - len(todo))
        batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
        encoded = encode([rows[batch].tolist() for batch in batches])
        for places, (valid, fields) in zip(batches, encoded, strict=True):
            made = np.zeros(len(places), self.record)
            made["state"] = np.where(valid, VALID, BROKEN)
            for name, values in fields.items():
                made[name][valid] = values
                records[name][places] = made[name]
            trailer["sum"][places] = checksums(made.view(np.uint8).reshape(len(places), -1))
            trailer["size"][places], trailer["mtime"][places] = states[rows[places]].T
            records["state"][places] = made["state"]  # last: the record is whole
            bar.update(len(places))
        whole[-END:] = np.frombuffer(checksum(trailer).to_bytes(END, "little"), np.uint8)
        with disk_errors(partial):
            whole.flush()
            del whole, records, trailer
            os.replace(partial, self._path(shard))

    def _begin(self, shard: int, partial: Path) -> None:
        """The file that is written into: what an interrupted run left, a copy of a shard out of date, or zeros."""
        size = self._size(shard)
        if partial.is_file() and partial.stat().st_size == size:
            return
        with disk_errors(partial, "make room, name another folder, or take --cache-precision int8"):
            if self._path(shard).is_file():
                with atomic_path(partial) as temporary:
                    shutil.copyfile(self._path(shard), temporary)
            else:
                reserve(partial, size)

    def _is_claimed(self) -> bool:
        """Whether the folder is this store's already. Raises UserError if it is another's."""
        has_records = any(self.folder.glob("shard-*.*"))  # looked at first: a run that fills it writes its key first
        found = read_key(self.folder)
        differs = [name for name, value in self.key.items() if found.get(name) != value] if found else []
        if differs:
            raise UserError(
                f"{self.folder}: features of another {', '.join(differs)}; delete the folder or name another one"
            )
        if not found and has_records:
            raise UserError(f"{self.folder}: holds features but no {STAMP} that says of what; delete the folder")
        return bool(found)


def _stale(trailer: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Numbers of the rows whose file is there and is not as it was."""
    differs = (trailer["size"] != states[:, 0]) | (trailer["mtime"] != states[:, 1])
    return np.flatnonzero(differs & (states[:, 0] >= 0))


def read_key(folder: Path) -> dict[str, Any]:
    """What the records in a folder depend on; empty if there are none. Raises UserError for a damaged file."""
    stamp = folder / STAMP
    return read_json(stamp, {}, f"delete {folder}, and its features are made anew") if stamp.is_file() else {}
