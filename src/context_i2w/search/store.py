"""Features of a gallery on disk: one memory-mapped matrix, and which file each row belongs to.

A store is a folder:
    index.json            names, states and broken files; which features file belongs to it
    features-ID.npy       [n, E] float32 unit rows in the order of names
    pending.*             the journal of an update that has not finished; the next one takes its rows over
index.json is replaced in one step once its features file is complete, so a reader never sees half an update.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from context_i2w.errors import UserError
from context_i2w.search.files import FileState
from context_i2w.search.journal import Journal

try:
    import fcntl
except ImportError:  # Windows: two updates at the same time are then not noticed
    fcntl = None

FORMAT = 1
COPIED = 1 << 14  # rows copied at once


@dataclass
class Contents:
    """What index.json says. rows: name -> state, in the order of the matrix; broken: name -> state and reason."""

    rows: dict[str, FileState] = field(default_factory=dict)
    broken: dict[str, tuple[FileState, str]] = field(default_factory=dict)
    features: str | None = None  # name of the features file


class Store:
    """The folder described above, for features of width `width`."""

    def __init__(self, folder: Path, width: int):
        self.folder = folder
        self.width = width
        self.contents = self._read()

    @property
    def identity(self) -> str:
        """Changes whenever a row does."""
        return Path(self.contents.features or "").stem

    def features(self) -> np.ndarray:
        """[n, E] float32, memory-mapped; copy-on-write, so that the file can't be changed through it."""
        if not self.contents.rows:
            return np.empty((0, self.width), np.float32)
        return np.load(self.folder / self.contents.features, mmap_mode="c")

    @contextlib.contextmanager
    def update(self) -> Iterator[Journal]:
        """The journal to add rows to. Raises UserError if the store can't be written or is being updated elsewhere."""
        with self._locked():
            self.contents = self._read()
            yield Journal(self.folder, self.width)

    def missing(self, wanted: Mapping[str, FileState], journal: Journal) -> list[str]:
        """Names that neither the store nor the journal knows in this state."""
        done = [self.contents.broken, journal.rows, journal.broken]
        return [
            name
            for name, state in wanted.items()
            if self.contents.rows.get(name) != state and _entry(name, state, *done) is None
        ]

    def finish(self, wanted: Mapping[str, FileState], journal: Journal) -> None:
        """The store becomes exactly `wanted`, of which nothing is missing; if it is so already, nothing is written."""
        broken = {}
        for name, state in wanted.items():
            entry = _entry(name, state, journal.broken, self.contents.broken)
            if entry is not None:
                broken[name] = entry
        rows = {name: state for name, state in wanted.items() if name not in broken}
        if rows != self.contents.rows or broken != self.contents.broken:
            new = Contents(rows, broken, f"features-{uuid.uuid4().hex[:12]}.npy")
            if rows:
                self._write_features(new, journal)
            self._write_json(new)
            self.contents = new
            for old in self.folder.glob("features-*"):
                if not old.name.startswith(self.identity):
                    old.unlink(missing_ok=True)
        journal.delete()

    def _write_features(self, new: Contents, journal: Journal) -> None:
        before = {name: number for number, name in enumerate(self.contents.rows)}
        old, fresh = self.features(), journal.array()
        out = np.lib.format.open_memmap(
            self.folder / new.features, "w+", np.dtype(np.float32), (len(new.rows), self.width)
        )
        names = list(new.rows)
        for start in range(0, len(names), COPIED):
            block = np.empty((min(COPIED, len(names) - start), self.width), np.float32)
            for place, name in enumerate(names[start : start + COPIED]):
                state, number = journal.rows.get(name, (None, -1))
                block[place] = fresh[number] if state == new.rows[name] else old[before[name]]
            out[start : start + len(block)] = block
        out.flush()

    def _write_json(self, new: Contents) -> None:
        content = {
            "format": FORMAT,
            "width": self.width,
            "features": new.features,
            "rows": [[name, *state] for name, state in new.rows.items()],
            "broken": [[name, *state, reason] for name, (state, reason) in new.broken.items()],
        }
        temporary = self.folder / f"index.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(content))
        temporary.replace(self.folder / "index.json")

    def _read(self) -> Contents:
        """A store that is unreadable or of another format counts as empty: it is only a cache."""
        try:
            content = json.loads((self.folder / "index.json").read_text())
            if (content["format"], content["width"]) != (FORMAT, self.width):
                return Contents()
            rows = {name: FileState(size, time) for name, size, time in content["rows"]}
            broken = {name: (FileState(size, time), reason) for name, size, time, reason in content["broken"]}
            if rows:
                shape = np.load(self.folder / content["features"], mmap_mode="r").shape
                if shape != (len(rows), self.width):
                    return Contents()
        except (OSError, ValueError, KeyError, TypeError):
            return Contents()
        return Contents(rows, broken, content["features"])

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / "lock", "w")  # noqa: SIM115 (held open while locked)
        except OSError as error:
            raise UserError(
                f"{self.folder}: features can't be kept there ({error.strerror}); name another folder by cache="
            ) from None
        with lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise UserError(f"{self.folder}: another process is updating this index; wait for it") from None
            yield


def _entry(name: str, state: FileState, *sources: Mapping) -> tuple | None:
    """The entry (state, ...) of the file in this state, if one of the sources has it."""
    for source in sources:
        entry = source.get(name)
        if entry is not None and entry[0] == state:
            return entry
    return None
