"""Many strings in two arrays: millions of rows that worker processes share without copying them."""

from collections.abc import Iterable

import numpy as np


class Strings:
    """A fixed sequence of strings. Python's own objects would be copied page by page into each forked worker, as
    every look at one changes its reference count; arrays are not."""

    def __init__(self, strings: Iterable[str]):
        encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
        self._ends = np.cumsum([len(string) for string in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:
        row = range(len(self))[row]  # negative rows count from the end, others raise IndexError
        begin = self._ends[row - 1] if row else 0
        return self._bytes[begin : self._ends[row]].tobytes().decode("utf-8", "surrogatepass")
