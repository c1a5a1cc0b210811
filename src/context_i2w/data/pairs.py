"""The list of training pairs, and batches made from it.

A row is an image file, its caption (`title`) and its masked caption, in which the object name is `<|replace|>`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset, Sampler

from context_i2w.data.augmentation import TrainPreparation
from context_i2w.data.batch import Batch, Encoded, make_batch, room_for
from context_i2w.data.broken import check_caption
from context_i2w.data.kept_lists import keep
from context_i2w.data.options import ListColumns, ViewOptions
from context_i2w.data.packed_strings import Paths, Strings
from context_i2w.data.reading import Pinned, Reading
from context_i2w.data.room import Room
from context_i2w.data.tables import read_table
from context_i2w.errors import UserError
from context_i2w.files import is_hidden, note
from context_i2w.model.images import Preparation, content_of
from context_i2w.model.prompts import Tokenizer

Order = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class PairList:
    """Rows of a list: image paths and masked captions, both of one length. (Training never reads the captions.)"""

    source: Path
    images: Sequence[str]
    masked: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)


def check_list_exists(path: Path, option: str = "list") -> None:
    """Raises UserError, under the option's name, if there is no such list."""
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder without shards (*.tar); name the list in it")
    if not path.is_file():
        raise UserError(f"{option} {path}: no such list; docs/training.md tells how to make it")


def read_pair_list(path: str | Path, columns: ListColumns | None = None) -> PairList:
    """Reads a list of any format of data/tables.py, a long one only once (data/kept_lists.py).

    Relative image paths start at the working folder, or at the list's own folder if they are not found there.
    Raises UserError if it or a column is missing, or it has no rows.
    """
    path, columns = Path(path), columns or ListColumns()
    check_list_exists(path)
    names, masked = keep(path, astuple(columns), lambda: _read_columns(path, columns))
    base = _base_folder(path, [names[row] for row in range(min(len(names), 200))])
    return PairList(path, Paths(base, names), masked)


def _read_columns(path: Path, columns: ListColumns) -> tuple[Strings, Strings]:
    """Image names as they are listed, and masked captions."""
    table = read_table(path, columns.separator, errors="replace")
    wanted = (columns.image, columns.caption, columns.masked)
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        remedy = "give the right names with --image-column, --caption-column, --masked-column"
        if missing == [columns.masked]:
            remedy = f"add it with `python scripts/mask_captions.py {path}` or name it with --masked-column"
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))}; found {table.found}; {remedy}")
    images, masked = table.columns[columns.image], table.columns[columns.masked]
    hidden = {row for row, name in enumerate(images) if is_hidden(name)}
    if hidden:
        note(f"{path}: {len(hidden)} rows name hidden files ({images[min(hidden)]}); they are no images, and left out")
        images, masked = ([cell for row, cell in enumerate(cells) if row not in hidden] for cells in (images, masked))
    if not images:
        raise UserError(f"{path}: the list has no rows")
    return Strings(images), Strings(masked)


def _base_folder(path: Path, names: Iterable[str]) -> Path:
    """Where most of the named images are; the first ones alone might be missing."""
    candidates = [Path(), path.parent, path.parent.parent]
    return max(candidates, key=lambda folder: sum(os.path.isfile(folder / name) for name in names))


class ImagePairs(Dataset):
    """Batches of a list's pairs with images read from disk; indexed by (epoch, row numbers)."""

    def __init__(
        self,
        pairs: PairList,
        preparation: Preparation,
        crop: bool,
        seed: int,
        context_length: int,
        view: ViewOptions | None = None,
    ):
        self.pairs, self.preparation, self.seed = pairs, preparation, seed
        self.prepare = TrainPreparation(preparation, crop, view)
        self.tokenizer = Tokenizer(context_length)

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> Batch:
        rows = len(key[1])
        return self.fill(key, slice(rows), room_for(self.prepare, rows).new_place(rows))

    def fill(self, key: tuple[int, Sequence[int]], own: slice, place: np.ndarray) -> Batch:
        epoch, rows = key

        def encoded(row: int) -> Encoded:
            name = self.pairs.images[row]
            caption = check_caption(name, self.pairs.masked[row])
            return Encoded(name, content_of(name), caption, f"{self.seed}-{epoch}-{row}")

        return make_batch(encoded, rows[own], self.prepare, self.tokenizer, place)

    def reading(self, sampler: "EpochBatches", workers: int, pin_memory: bool) -> Reading:
        """By processes, into shared memory."""
        return Pinned(Room(room_for(self.prepare, sampler.batch_size), self, workers, sampler), pin_memory)


class EpochBatches(Sampler):
    """Row numbers of each batch of one epoch for one process.

    The order depends on seed and epoch alone. W processes of batch B take the W parts of what one process of batch
    W·B would take, so the global batch, and with it the update, does not depend on W. The last, partial batch is
    dropped. Iteration begins at batch `start`; an epoch has `batches`.

    order: from a generator to a permutation of the rows; at random if left out.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, order: Order | None = None
    ):
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.batches = count // (batch_size * world)
        self.order = order or (lambda rng: rng.permutation(count))
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        order = self.order(np.random.default_rng((self.seed, self.epoch)))
        for batch in range(self.start, self.batches):
            begin = (batch * self.world + self.rank) * self.batch_size
            yield self.epoch, order[begin : begin + self.batch_size].tolist()
