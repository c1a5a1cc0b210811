"""Captions alone, for training that reads no image: any list of data/tables.py with a column of captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from context_i2w.data.batch import Batch
from context_i2w.data.broken import BrokenPair, check_caption
from context_i2w.data.kept_lists import keep
from context_i2w.data.options import ListColumns
from context_i2w.data.packed_strings import Strings
from context_i2w.data.pairs import EpochBatches, check_list_exists
from context_i2w.data.reading import Pinned, Reading, ReadingProcesses
from context_i2w.data.tables import GOOGLE_COLUMNS, read_table
from context_i2w.errors import UserError

FEW = 1 << 16  # captions that are masked at once, before the first step


class Masker(Protocol):
    """Makes token ids [B, L] of captions and of their masked forms; drawn: a seed for each caption's random choice.

    name: what a resumed run must have too.
    """

    name: str

    def __call__(self, captions: Sequence[str], drawn: Sequence[str]) -> tuple[Tensor, Tensor]: ...


class Captions(Dataset):
    """Batches of a list's captions, masked; indexed by (epoch, row numbers)."""

    def __init__(self, path: str | Path, columns: ListColumns, masker: Masker, seed: int, context_length: int):
        self.captions, self.masker, self.seed = read_captions(Path(path), columns), masker, seed
        self.context_length = context_length
        self.kept: tuple[Tensor, ...] = ()
        if len(self.captions) <= FEW:
            self.kept = tuple(ids.int() for ids in self._masked(range(len(self.captions))))

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> Batch:
        good, broken = [], []
        for row in key[1]:
            try:
                check_caption(f"row {row + 1}", self.captions[row])
                good.append(row)
            except BrokenPair as error:
                broken.append((error.name, error.kind))
        if not good:
            return Batch(torch.empty(0, self.context_length, dtype=torch.long), broken=tuple(broken))
        ids, masked = (kept[good].long() for kept in self.kept) if self.kept else self._masked(good)
        return Batch(masked, caption_ids=ids, broken=tuple(broken))

    def reading(self, sampler: EpochBatches, workers: int, pin_memory: bool) -> Reading:
        return Pinned(ReadingProcesses(self, workers, sampler), pin_memory)

    def _masked(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A caption is masked alike in all epochs."""
        return self.masker([self.captions[row] for row in rows], [f"{self.seed}-{row}" for row in rows])


def read_captions(path: Path, columns: ListColumns) -> Strings:
    """The captions' column; the name that Google's TSV would give it will do for the default one.

    Raises UserError if there is no such list or column, or it has no rows.
    """
    check_list_exists(path)
    return keep(path, ("captions", columns.caption, columns.separator), lambda: (_read(path, columns),))[0]


def _read(path: Path, columns: ListColumns) -> Strings:
    others = GOOGLE_COLUMNS[:1] if columns.caption == ListColumns.caption else []
    captions = read_table(path, columns.separator, errors="replace").captions(columns.caption, *others)
    if not captions:
        raise UserError(f"{path}: the list has no rows")
    return Strings(captions)
