"""Many strings in two arrays: millions of rows that processes share without copying them, on disk too."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from context_i2w.files import checksum


class Strings(Sequence[str]):
    """A fixed sequence of strings. Python's own objects would be copied page by page into each forked worker, as
    every look at one changes its reference count; arrays are not."""

    def __init__(self, strings: Iterable[str]):
        encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
        self._ends = np.cumsum([len(string) for string in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    @classmethod
    def mapped(cls, folder: Path) -> "Strings":
        """What `write` left in a folder, in memory that all processes share. Raises ValueError if it is damaged."""
        self = cls(())
        self._ends, self._bytes = (np.load(folder / name, mmap_mode="r") for name in ("ends.npy", "bytes.npy"))
        if np.load(folder / "sums.npy").tolist() != self._sums():
            raise ValueError(f"{folder}: damaged")
        return self

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        for name, array in (("ends.npy", self._ends), ("bytes.npy", self._bytes), ("sums.npy", self._sums())):
            with open(folder / name, "wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())

    def _sums(self) -> list[int]:
        return [checksum(array) if len(array) else 0 for array in (self._ends, self._bytes)]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]  # a row at a time, no slices
        row = range(len(self))[row]  # negative rows count from the end, others raise IndexError
        begin = self._ends[row - 1] if row else 0
        return self._bytes[begin : self._ends[row]].tobytes().decode("utf-8", "surrogatepass")


class Paths(Sequence[str]):
    """Names under a folder, as paths."""

    def __init__(self, folder: Path, names: Strings):
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]  # as above
        return str(self.folder / self.names[row])
