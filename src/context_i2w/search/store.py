"""Features of a gallery on disk: one memory-mapped matrix, and which file each row belongs to.

A store is a folder:
    index.json            names, states and broken files; which features file belongs to it
    features-ID.npy       [n, E] float32 unit rows in the order of names
    pending*              the journal of an update that has not finished; the next one takes its rows over
index.json is replaced in one step once its features file is complete, so a reader never sees half an update. Both carry
a checksum that is verified at each opening; a damaged store is named and made anew.
"""

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from context_i2w.errors import UserError, one_line
from context_i2w.files import FileName, FileState, atomic_path, checksum, locked, note, read_json, write_text
from context_i2w.search.journal import COPIED, LINES, PARTS, Journal

FORMAT = 1
INDEX: dict[str, Any] = {"format": int, "width": int, "features": FileName | None, "checksum?": int | None, "own?": int}
INDEX |= {"rows": [list], "broken": [list]}


@dataclass
class Contents:
    """What index.json says."""

    rows: dict[str, FileState] = field(default_factory=dict)  # by name, in the order of the matrix
    broken: dict[str, tuple[FileState, str]] = field(default_factory=dict)  # state and reason, by name
    features: str = ""  # name of the features file
    checksum: int | None = None  # of its rows; None as earlier versions wrote it


class Store:
    """The folder described above, for features of width `width`."""

    def __init__(self, folder: Path, width: int):
        self.folder, self.width = folder, width
        self.read()

    def read(self) -> None:
        """Anew; a store that is damaged, or of another format, counts as empty, with a line: it is only a cache."""
        try:
            self.contents = self._read() if (self.folder / "index.json").is_file() else Contents()
        except Exception as error:  # damage can raise nearly anything
            note(f"{one_line(error)}; the index is made anew")
            self.contents = Contents()

    @property
    def identity(self) -> str:
        """Changes whenever a row does."""
        return Path(self.contents.features).stem

    def features(self) -> np.ndarray:
        """[n, E] float32, memory-mapped; copy-on-write, so that the file can't be changed through it."""
        if not self.contents.rows:
            return np.empty((0, self.width), np.float32)
        return np.load(self.folder / self.contents.features, mmap_mode="c")

    @contextlib.contextmanager
    def update(self) -> Iterator[Journal]:
        """The journal to add rows to. Raises UserError if the store can't be written or is being updated elsewhere."""
        with locked(self.folder / "lock", f"{self.folder}: another process is updating this index; wait for it"):
            self.read()
            journal = Journal(self.folder, self.width)
            journal.absorb()
            yield journal

    def is_complete(self, wanted: Mapping[str, FileState]) -> bool:
        """Whether the store is exactly `wanted` already, so that nothing has to be written."""
        broken = {name: state for name, (state, _) in self.contents.broken.items()}
        pending = [self.folder / LINES, *self.folder.glob(PARTS)]
        return {**self.contents.rows, **broken} == dict(wanted) and not any(path.exists() for path in pending)

    def missing(self, wanted: Mapping[str, FileState], journal: Journal) -> list[str]:
        """Names that neither the store nor the journal knows in this state."""
        rows, done = self.contents.rows, (self.contents.broken, journal.rows, journal.broken)
        return [n for n, state in wanted.items() if rows.get(n) != state and not _entry(n, state, *done)]

    def finish(self, wanted: Mapping[str, FileState], journal: Journal) -> bool:
        """The store becomes exactly `wanted`, of which nothing is missing. False: it was, and nothing is written."""
        entries = {name: _entry(name, state, journal.broken, self.contents.broken) for name, state in wanted.items()}
        broken = {name: entry for name, entry in entries.items() if entry}
        rows = {name: state for name, state in wanted.items() if name not in broken}
        changed = rows != self.contents.rows or broken != self.contents.broken
        if changed:
            new = Contents(rows, broken, f"features-{uuid.uuid4().hex[:12]}.npy")
            if rows:
                self._write_features(new, journal)
            self._write_json(new)
            self.contents = new
        for old in self.folder.glob("*features-*"):
            if not (self.identity and old.name.startswith(self.identity)):
                old.unlink(missing_ok=True)
        journal.delete()
        return changed

    def _write_features(self, new: Contents, journal: Journal) -> None:
        before = {name: number for number, name in enumerate(self.contents.rows)}
        old, fresh = self.features(), journal.array()
        names, sums = list(new.rows), []
        with atomic_path(self.folder / new.features) as temporary, open(temporary, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), self.width)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(names), COPIED):
                block = np.empty((min(COPIED, len(names) - start), self.width), np.float32)
                for place, name in enumerate(names[start : start + COPIED]):
                    state, number = journal.rows.get(name, (None, -1))
                    block[place] = fresh[number] if state == new.rows[name] else old[before[name]]
                file.write(block.data)
                sums.append(checksum(block))
        new.checksum = _joined(sums)

    def _write_json(self, new: Contents) -> None:
        content = {
            "format": FORMAT,
            "width": self.width,
            "features": new.features,
            "checksum": new.checksum,
            "rows": [[name, *state] for name, state in new.rows.items()],
            "broken": [[name, *state, reason] for name, (state, reason) in new.broken.items()],
        }
        write_text(self.folder / "index.json", json.dumps({**content, "own": _own_sum(content)}))

    def _read(self) -> Contents:
        content = read_json(self.folder / "index.json", INDEX)
        if content["width"] != self.width or content["format"] != FORMAT:
            return Contents()
        own = content.pop("own", None)
        if own != (_own_sum(content) if "checksum" in content else None):
            raise UserError(f"{self.folder / 'index.json'}: damaged")
        rows = {name: FileState(size, time) for name, size, time in content["rows"]}
        broken = {name: (FileState(size, time), reason) for name, size, time, reason in content["broken"]}
        contents = Contents(rows, broken, content["features"] or "", content.get("checksum"))
        if rows:
            self._check_features(contents)
        return contents

    def _check_features(self, contents: Contents) -> None:
        path, shape = self.folder / contents.features, (len(contents.rows), self.width)
        features = np.load(path, mmap_mode="r")
        if features.dtype != np.float32 or features.shape != shape:
            raise UserError(f"{path}: not the features of {len(contents.rows)} images")
        if contents.checksum is None:
            note(f"{self.folder}: an index of an earlier version, without checksums; delete it to have it made anew")
        elif contents.checksum != _joined([checksum(features[i : i + COPIED]) for i in range(0, shape[0], COPIED)]):
            raise UserError(f"{path}: damaged")


def _joined(sums: list[int]) -> int:
    return checksum(np.array(sums, "<u4"))


def _own_sum(content: Mapping) -> int:
    return checksum(json.dumps(content).encode())


def _entry(name: str, state: FileState, *sources: Mapping) -> tuple | None:
    """The entry (state, ...) of the file in this state, if one of the sources has it."""
    entries = (source.get(name) for source in sources)
    return next((entry for entry in entries if entry and entry[0] == state), None)
