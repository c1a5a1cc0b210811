"""Memory for whole batches of images: reading processes write them there, and the training process finds them.

Sent as tensors they would come in memory that is new to both sides, which the system is slow to give. It also needs
hardly any of /dev/shm, of which containers have little.
"""

import collections
import math
import mmap
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from context_i2w.data.reading import ReadingProcesses
from context_i2w.errors import UserError


class PlacedRows(Protocol):
    def fill(self, key: Any, own: slice, place: np.ndarray) -> Any:
        """A named tuple of the rows `own` of a batch, their images in `place` [fields, n, S, S, 3] from its start on.

        It has a `size`, how many could be read.
        """
        ...


class RoomShape(NamedTuple):
    """fields: of the items that are read, those that are images; each [n, 3, S, S], channels last in memory."""

    fields: tuple[str, ...]
    batch_size: int
    image_size: int

    def of(self, rows: int) -> tuple[int, ...]:
        """The shape of memory for so many of a batch's rows."""
        return len(self.fields), rows, self.image_size, self.image_size, 3

    def new_place(self, rows: int) -> np.ndarray:
        return np.empty(self.of(rows), np.uint8)


class Room:
    """A Reading into shared places [fields, B, S, S, 3] of bytes; one is written again once nobody holds its tensors.

    parts: items that share each batch's place, its rows split evenly: key after key, part after part, process after
    process. Where no place is left, or processes can't share it (they are forked on Linux alone), an item is sent as
    tensors.
    """

    def __init__(self, shape: RoomShape, rows: PlacedRows, workers: int, sampler: Iterable, parts: int = 1):
        self._count = 0 if workers and sys.platform != "linux" else 2 * workers // parts + 4  # read ahead; and in use
        self._shape, self._rows, self._workers, self._sampler, self._parts = shape, rows, workers, sampler, parts
        self._open: tuple[_Places, ReadingProcesses] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._open is None:
            places = _Places(self._shape, self._count, self._sampler, self._parts)
            rows = _Filled(self._rows, self._shape, places.memory)
            self._open = places, ReadingProcesses(rows, self._workers, places)
        places, reading = self._open
        return map(places.found, reading)

    def close(self) -> None:
        if self._open:
            self._open[1].close()
        self._open = None


class _Places:
    """The places, and as a sampler where the item of each key is to lie. Raises UserError if memory can't hold them."""

    def __init__(self, shape: RoomShape, count: int, sampler: Iterable, parts: int):
        self.shape, self.sampler, self.parts = shape, sampler, parts
        one = shape.of(shape.batch_size)
        size = math.prod(one)
        try:
            memory = mmap.mmap(-1, max(count, 1) * size)
        except (OSError, OverflowError):
            room = f"{count} batches of {size / 1e6:,.0f} MB each"
            raise UserError(f"memory has no room for {room}; lower --workers or --batch-size") from None
        self.memory = np.frombuffer(memory, np.uint8).reshape(-1, *one)[:count]
        self.free = list(range(count))
        self.coming: collections.deque[tuple[Tensor | None, slice]] = collections.deque()

    def __iter__(self) -> Iterator[tuple[int | None, slice, Any]]:
        self.coming.clear()  # of a pass that was left: nobody writes there any more
        for key in self.sampler:
            number, place = self._take()
            for part in range(self.parts):
                own = slice(*(self.shape.batch_size * end // self.parts for end in (part, part + 1)))
                self.coming.append((place, own))
                yield number, own, key

    def found(self, item: Any) -> Any:
        """The next item that comes, with its images."""
        place, own = self.coming.popleft()
        if place is None or not item.size:
            return item
        images = place[:, own.start : own.start + item.size].permute(0, 1, 4, 2, 3)
        return item._replace(**dict(zip(self.shape.fields, images)))

    def _take(self) -> tuple[int | None, Tensor | None]:
        """The place that was used last of those that are free: the others' memory is not asked for."""
        if not self.free:
            return None, None
        number = self.free.pop()
        place = self.memory[number]  # an array of its own, which lives as long as any tensor of it
        weakref.finalize(place, self.free.append, number).atexit = False
        return number, torch.from_numpy(place)


class _Filled(Dataset):
    """What a reading process does; items leave it without their images."""

    def __init__(self, rows: PlacedRows, shape: RoomShape, memory: np.ndarray):
        self.rows, self.shape, self.memory = rows, shape, memory
        self.known: set[int] = set()

    def __getitem__(self, key: tuple[int | None, slice, Any]) -> Any:
        number, own, of_rows = key
        if number is None:
            return self.rows.fill(of_rows, own, self.shape.new_place(own.stop - own.start))
        place = self.memory[number][:, own]
        if number not in self.known:
            self.known.add(number)
            for part in place:  # reading maps pages a dozen at a time, where writing would map them one by one
                part.reshape(-1)[:: mmap.PAGESIZE].max(initial=0)
        return self.rows.fill(of_rows, own, place)._replace(**dict.fromkeys(self.shape.fields))


def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """One tensor of them all; those that follow each other in memory, as parts of a full place do, are not copied."""
    there = [part for part in parts if part is not None]
    if len(there) < 2:
        return there[0] if there else None
    first = there[0]
    if len({part.untyped_storage().data_ptr() for part in there}) == 1 and all(
        one.data_ptr() + one.nbytes == other.data_ptr() for one, other in pairwise(there)
    ):
        return first.as_strided((sum(map(len, there)), *first.shape[1:]), first.stride())
    return torch.cat(there)
