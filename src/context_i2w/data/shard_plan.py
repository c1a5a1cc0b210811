"""Which sample of which shard stands in which row of which global batch: arithmetic, without reading anything.

The shards, in an order drawn anew for each epoch, form one long row of samples. It is cut into equal *lanes*, and each
global batch takes the same number of rows from every lane; within a lane, samples are shuffled block by block. So a
batch mixes samples of many shards, each lane is read front to back, and the order depends on nothing but the sizes,
the global batch and the seed: not on processes, workers or where a run was resumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LANES = 64  # at most: streams that are open at once, over all processes


class Piece(NamedTuple):
    """Consecutive samples of one shard."""

    shard: int
    begin: int
    end: int


class Block(NamedTuple):
    """Consecutive positions of a lane, shuffled among themselves: the k-th slot gets the `order[k]`-th sample."""

    pieces: list[Piece]
    order: np.ndarray


@dataclass(frozen=True)
class ShardPlan:
    """sizes: samples of each shard; shuffle: how many samples all lanes together shuffle at a time."""

    sizes: tuple[int, ...]
    global_batch: int
    seed: int
    shuffle: int

    @property
    def batches(self) -> int:
        """Global batches of an epoch; the samples of the last, partial one are left out."""
        return sum(self.sizes) // self.global_batch

    @property
    def lanes(self) -> int:
        """The most lanes, up to LANES and the number of shards, that share a global batch evenly."""
        most = min(LANES, len(self.sizes), self.global_batch)
        return next(lanes for lanes in range(most, 0, -1) if self.global_batch % lanes == 0)

    @property
    def rows(self) -> int:
        """Rows of each global batch that one lane gives."""
        return self.global_batch // self.lanes

    @property
    def block(self) -> int:
        return max(self.shuffle // self.lanes, 1)

    def blocks(self, epoch: int, lane: int, first: int = 0) -> Iterator[Block]:
        """The lane's blocks of an epoch from number `first` on."""
        shards = np.random.default_rng((self.seed, epoch)).permutation(len(self.sizes))
        ends = np.cumsum(np.asarray(self.sizes)[shards])
        length = self.batches * self.rows
        for number in range(first, -(-length // self.block)):
            begin, end = number * self.block, min((number + 1) * self.block, length)
            order = np.random.default_rng((self.seed, epoch, lane, number)).permutation(end - begin)
            yield Block(list(self._pieces(shards, ends, lane * length + begin, lane * length + end)), order)

    def _pieces(self, shards: np.ndarray, ends: np.ndarray, begin: int, end: int) -> Iterator[Piece]:
        number = int(np.searchsorted(ends, begin, side="right"))
        while begin < end:
            start = int(ends[number]) - self.sizes[shards[number]]
            stop = min(end, int(ends[number]))
            if stop > begin:
                yield Piece(int(shards[number]), begin - start, stop - start)
            begin, number = stop, number + 1
