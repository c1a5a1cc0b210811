"""Opens whatever DataOptions name: a list, its cached features, or shards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from context_i2w.data.augmentation import TrainPreparation
from context_i2w.data.batches import ListSource, PairSource
from context_i2w.data.captions import Captions, Masker
from context_i2w.data.feature_cache import open_cache
from context_i2w.data.options import VIEWS_KEPT, CacheOptions, DataOptions, ViewOptions
from context_i2w.data.pairs import ImagePairs, check_list_exists, read_pair_list
from context_i2w.data.shard_files import is_shards
from context_i2w.data.shards import ShardSource
from context_i2w.data.similar_order import similar_order
from context_i2w.distributed import Process
from context_i2w.errors import UserError
from context_i2w.files import is_text, shown
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.fast_images import PREPARATIONS
from context_i2w.model.images import Preparation
from context_i2w.model.prompts import Tokenizer

GROUPS = 8  # of images that look alike in a global batch of similar ones


@dataclass(frozen=True)
class Reader:
    """For whom data are opened: a process of a run, its batches, its CLIP."""

    clip: FrozenCLIP
    batch_size: int
    seed: int
    process: Process

    def preparation(self, reader: str) -> Preparation:
        return PREPARATIONS[reader](*self.clip.transform)

    @property
    def context_length(self) -> int:
        return self.clip.sizes.context_length

    @property
    def batches(self) -> tuple[int, int, Process]:
        """What a source of batches asks of its reader."""
        return self.batch_size, self.seed, self.process


def check_data(options: DataOptions) -> None:
    """What can be seen without CLIP. Raises UserError for missing lists and for options that exclude each other."""
    for option, data in (("--train-data", options.train_data), ("--val-data", options.val_data)):
        if data and not is_shards(data):
            check_list_exists(Path(data), option)
    if options.batches != "random" and not options.feature_cache:
        raise UserError("--batches similar goes by cached embeddings; give a list and --feature-cache DIR")
    if options.feature_cache and not is_text(options.feature_cache):
        raise UserError(f"--feature-cache {shown(options.feature_cache)}: torch maps files only by names in UTF-8")
    if options.feature_cache and options.train_data and is_shards(options.train_data):
        raise UserError("--feature-cache works with a list, not with shards; leave it out or give the list")


def open_training(options: DataOptions, reader: Reader, masker: Masker | None = None) -> PairSource:
    """The training pairs, augmented as published; with a masker, captions alone.

    Raises UserError if they can't be read.
    """
    assert options.train_data is not None  # a run without it has ended before
    if masker:
        return _captions(options.train_data, "--train-data", options, reader, masker)
    if options.feature_cache:
        return _cached(options.train_data, options.feature_cache, options, reader)
    return _open(options.train_data, options, reader, crop=True)


def open_validation(options: DataOptions, reader: Reader, masker: Masker | None = None) -> PairSource | None:
    """The held-out pairs as at evaluation; None if there are none."""
    if not options.val_data:
        return None
    if masker:
        return _captions(options.val_data, "--val-data", options, reader, masker)
    return _open(options.val_data, replace(options, view=ViewOptions()), reader, crop=False)


def kept(options: DataOptions) -> CacheOptions:
    """How the cache keeps features: several views of an image where the mapper sees another one than the target's."""
    crops = options.cache.crops or (VIEWS_KEPT if options.view.differs else 0)
    return replace(options.cache, crops=crops)


def _open(data: str, options: DataOptions, reader: Reader, crop: bool) -> PairSource:
    if not is_shards(data):
        pairs = _pairs(data, options, reader, crop)
        return ListSource(pairs, len(pairs.pairs), *reader.batches, options.workers)
    prepare = TrainPreparation(reader.preparation(options.image_reader), crop, options.view)
    samples = data, options.columns.masked, prepare, Tokenizer(reader.context_length)
    return ShardSource(*samples, *reader.batches, options.workers, options.shards)


def _cached(data: str, folder: str, options: DataOptions, reader: Reader) -> ListSource:
    """A list's features; the first process writes those that the folder lacks, the others wait."""
    cache_options, process = kept(options), reader.process
    pairs = _pairs(data, replace(options, image_reader="exact"), reader, cache_options.crops > 0)
    if not process.is_first:
        process.everyone(None)
    cache = open_cache(folder, pairs, reader.clip, cache_options, workers=options.workers, write=process.is_first)
    if process.is_first:
        process.everyone(None)
    order = None
    if options.batches == "similar":
        leaf = reader.batch_size * process.world // GROUPS
        embeddings = cache.embeddings(range(len(pairs.pairs)))
        order = (options.batches, lambda rng: similar_order(embeddings, leaf, rng))
    return ListSource(cache, len(pairs.pairs), *reader.batches, options.workers, order)


def _captions(path: str, option: str, options: DataOptions, reader: Reader, masker: Masker) -> ListSource:
    if is_shards(path):
        raise UserError(f"{option} {path}: captions alone are read from a list (TSV, CSV, Parquet), not from shards")
    if options.feature_cache:
        raise UserError(f"--feature-cache {options.feature_cache}: no image is read, so nothing is kept; leave it out")
    captions = Captions(path, options.columns, masker, reader.seed, reader.context_length)
    order = (f"captions {masker.name}", None)
    return ListSource(captions, len(captions.captions), *reader.batches, options.workers, order)


def _pairs(path: str, options: DataOptions, reader: Reader, crop: bool) -> ImagePairs:
    pairs, preparation = read_pair_list(path, options.columns), reader.preparation(options.image_reader)
    return ImagePairs(pairs, preparation, crop, reader.seed, reader.context_length, options.view)
