"""Rows of an index update that has not finished: appended batch by batch, so that an interruption loses none."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from context_i2w.errors import UserError
from context_i2w.files import FileState, checksum, disk_errors, parse_json

LINE = {"name": object, "state": [int], "sum?": int, "broken?": str}
ROWS = "pending.f32"
LINES = "pending.jsonl"
PARTS = "pending-*.jsonl"
COPIED = 1 << 14  # rows copied at once


class Journal:
    """pending.f32 holds rows of `width` float32; pending.jsonl a line for each, and one for each broken file.

    A row counts once its line is whole and its checksum right; what a kill left beyond that is cut off on opening.
    Of several processes each but the first writes a `part` of its own, pending-PART.*, which `absorb` takes over.
    """

    def __init__(self, folder: Path, width: int, part: str = ""):
        self.folder, self.width = folder, width
        self._rows, self._lines = (folder / name.replace(".", f"-{part}." if part else ".") for name in (ROWS, LINES))
        self.rows: dict[str, tuple[FileState, int]] = {}  # name -> state, number of its row
        self.broken: dict[str, tuple[FileState, str]] = {}  # name -> state, reason
        self._count = 0
        self._recover()

    def add(self, names: Sequence[str], states: Mapping[str, FileState], rows: np.ndarray) -> None:
        """Appends rows [b, E]."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        with disk_errors(self._rows), open(self._rows, "ab") as file:
            file.write(rows.data)
        self._log([{"name": name, "state": states[name], "sum": checksum(row)} for name, row in zip(names, rows)])
        for name in names:
            self.rows[name] = (states[name], self._count)
            self._count += 1

    def add_broken(self, reasons: Mapping[str, str], states: Mapping[str, FileState]) -> None:
        self._log([{"name": name, "state": states[name], "broken": reason} for name, reason in reasons.items()])
        self.broken |= {name: (states[name], reason) for name, reason in reasons.items()}

    def array(self) -> np.ndarray:
        """All rows so far, memory-mapped."""
        if not self._count:
            return np.empty((0, self.width), np.float32)
        return np.memmap(self._rows, np.float32, "r", shape=(self._count, self.width))

    def delete(self) -> None:
        for path in (self._rows, self._lines):
            path.unlink(missing_ok=True)

    def absorb(self) -> None:
        """Takes over the parts of processes that have ended, by a kill too."""
        for path in sorted(self.folder.glob(PARTS)):
            part = Journal(self.folder, self.width, path.stem.partition("-")[2])
            names, rows = list(part.rows), part.array()
            states = {name: state for name, (state, _) in [*part.rows.items(), *part.broken.items()]}
            for start in range(0, len(names), COPIED):
                some = names[start : start + COPIED]
                self.add(some, states, rows[[part.rows[name][1] for name in some]])
            self.add_broken({name: reason for name, (_, reason) in part.broken.items()}, states)
            part.delete()

    def _recover(self) -> None:
        rows, lines = self._rows, self._lines
        count, kept = rows.stat().st_size // (4 * self.width) if rows.is_file() else 0, 0
        stored = np.memmap(rows, np.float32, "r", shape=(count, self.width)) if count else np.empty((0, self.width))
        for line in lines.read_bytes().splitlines(keepends=True) if lines.is_file() else []:
            entry = _whole(line)
            if entry is None or not ("broken" in entry or self._holds(stored, entry["sum"])):
                break
            kept += len(line)
            state = FileState(*entry["state"])
            if "broken" in entry:
                self.broken[entry["name"]] = (state, entry["broken"])
            else:
                self.rows[entry["name"]] = (state, self._count)
                self._count += 1
        del stored  # a mapped file is not cut off everywhere
        if lines.is_file():
            os.truncate(lines, kept)
        if rows.is_file():
            os.truncate(rows, 4 * self.width * self._count)

    def _holds(self, stored: np.ndarray, wanted: int | None) -> bool:
        """Whether the next row is there and undamaged."""
        return self._count < len(stored) and checksum(stored[self._count]) == wanted

    def _log(self, entries: Sequence[dict]) -> None:
        with disk_errors(self._lines), open(self._lines, "a", encoding="ascii") as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))


def _whole(line: bytes) -> dict | None:
    """None for a line cut short or damaged; rows of earlier versions have no sum, and are encoded again."""
    try:
        entry = parse_json(line, LINES, LINE) if line.endswith(b"\n") else None
    except UserError:
        return None
    if entry and isinstance(entry["name"], str) and len(entry["state"]) == 2:
        return {"sum": None, **entry}
    return None
