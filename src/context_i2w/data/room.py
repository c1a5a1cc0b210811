"""Memory for whole batches of images: reading processes write them there, and the training process finds them.

Sent as tensors they would come in memory that is new to both sides, which the system is slow to give: a quarter of the
time that an image takes in all. It also needs none of /dev/shm, of which containers have little.
"""

import collections
import math
import mmap
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from context_i2w.data.reading import pinned, read

Handed = tuple[Tensor | None, slice]  # a place, and which of its batch's rows are read into it


class Rows(Protocol):
    def fill(self, key: Any, own: slice, place: np.ndarray) -> Any:
        """A named tuple of the rows `own` of a batch, their images in `place` [fields, n, S, S, 3] from its start on.

        It has a `size`, how many could be read.
        """
        ...


class Room:
    """Places [fields, B, S, S, 3] of bytes, made at the first reading; one is written again once nobody holds it.

    fields: of the items that are read, those that are images; each [n, 3, S, S], channels last in memory.
    """

    def __init__(self, fields: Sequence[str], batch_size: int, image_size: int):
        self.fields, self.shape = tuple(fields), (len(fields), batch_size, image_size, image_size, 3)
        self._forget()

    def read(
        self, rows: Rows, workers: int, sampler: Iterable, pin_memory: bool = False, parts: int = 1
    ) -> Iterator[Any]:
        """The items of all keys, read ahead as by `reading.read`.

        parts: items that share each batch's place, its rows split evenly; key after key, part after part. Where no
        place is left, or processes can't share it (they are forked on Linux alone), an item is sent as tensors.
        """
        self._make(0 if workers and sys.platform != "linux" else 2 * workers // parts + 4)
        coming: collections.deque[Handed] = collections.deque()
        keys = self._hand_out(sampler, parts, coming)
        try:
            for item in read(_Filled(rows, self), workers, sampler=keys):
                place, own = coming.popleft()
                found = item if place is None else self._found(item, place, own)
                yield pinned(found) if pin_memory else found
        finally:
            if coming:
                self._forget()  # somebody may still be writing

    def _forget(self) -> None:
        self.places, self._free = np.empty((0, *self.shape), np.uint8), collections.deque[int]()

    def _make(self, count: int) -> None:
        if len(self.places) < count:
            memory = np.frombuffer(mmap.mmap(-1, count * math.prod(self.shape)), np.uint8)
            self.places, self._free = memory.reshape(count, *self.shape), collections.deque(range(count))

    def _hand_out(self, sampler: Iterable, parts: int, coming: collections.deque[Handed]) -> Iterator[tuple]:
        for key in sampler:
            number, place = self._take()
            for part in range(parts):
                own = slice(*(self.shape[1] * end // parts for end in (part, part + 1)))
                coming.append((place, own))
                yield number, own, key

    def _take(self) -> tuple[int | None, Tensor | None]:
        if not self._free:
            return None, None
        number = self._free.popleft()
        place = self.places[number]  # an array of its own, which lives as long as any tensor of it
        weakref.finalize(place, self._free.append, number).atexit = False
        return number, torch.from_numpy(place)

    def _found(self, item: Any, place: Tensor, own: slice) -> Any:
        if not item.size:
            return item
        images = place[:, own.start : own.start + item.size].permute(0, 1, 4, 2, 3)
        return item._replace(**dict(zip(self.fields, images)))


class _Filled(Dataset):
    """What a reading process does; items leave it without their images."""

    def __init__(self, rows: Rows, room: Room):
        self.rows, self.fields, self.shape, self.places = rows, room.fields, room.shape, room.places
        self.known: set[int] = set()

    def __getitem__(self, key: tuple[int | None, slice, Any]) -> Any:
        number, own, of_rows = key
        if number is None:
            return self.rows.fill(of_rows, own, new_place(self.shape, own))
        place = self.places[number][:, own]
        if number not in self.known:
            self.known.add(number)
            for part in place:  # reading maps pages a dozen at a time, where writing would map them one by one
                part.reshape(-1)[:: mmap.PAGESIZE].max(initial=0)
        return self.rows.fill(of_rows, own, place)._replace(**dict.fromkeys(self.fields))


def new_place(shape: Sequence[int], own: slice = slice(None)) -> np.ndarray:
    fields, rows, *image = shape
    return np.empty((fields, len(range(rows)[own]), *image), np.uint8)


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
