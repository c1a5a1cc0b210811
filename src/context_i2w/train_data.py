"""What a training run reads: a list, its cached features, or shards."""

from context_i2w.clip import FrozenCLIP
from context_i2w.data.feature_cache import CacheOptions, open_cache
from context_i2w.data.pairs import ImagePairs, ListColumns, TrainPreparation, read_pair_list
from context_i2w.data.shard_files import is_shards
from context_i2w.data.shards import ShardOptions, ShardSource
from context_i2w.data.source import ListSource, PairSource
from context_i2w.distributed import Process, barrier
from context_i2w.errors import UserError
from context_i2w.images import Preparation
from context_i2w.prompts import Tokenizer


class TrainData:
    """Opens the training and the validation data of one run for one of its processes."""

    def __init__(
        self, columns: ListColumns, clip: FrozenCLIP, batch_size: int, seed: int, process: Process, workers: int
    ):
        self.columns, self.clip, self.batch_size, self.seed = columns, clip, batch_size, seed
        self.process, self.workers = process, workers
        self.preparation = Preparation(clip.sizes.image_size, clip.image_mean, clip.image_std)

    def open_list(self, path: str, crop: bool) -> ListSource:
        pairs = self._pairs(path, crop)
        return self._list_source(pairs, len(pairs.pairs), self.workers)

    def open_cached(self, path: str, folder: str, options: CacheOptions) -> ListSource:
        """A list's features; the first process writes those that `folder` lacks, the others wait."""
        pairs = self._pairs(path, crop=options.crops > 0)
        first = self.process.is_first
        if not first:
            barrier()
        cache = open_cache(folder, pairs, self.clip, options, workers=self.workers, write=first)
        if first:
            barrier()
        return self._list_source(cache, len(pairs.pairs), workers=0)

    def open_shards(self, data: str, crop: bool, options: ShardOptions) -> ShardSource:
        return ShardSource(
            data,
            self.columns.masked,
            TrainPreparation(self.preparation, crop),
            Tokenizer(self.clip.sizes.context_length),
            self.batch_size,
            self.seed,
            self.process,
            self.workers,
            options,
        )

    def open(
        self, data: str, crop: bool, cache_folder: str | None, cache: CacheOptions, shards: ShardOptions
    ) -> PairSource:
        """Whatever `data` names. Raises UserError if it can't be read, or features of shards are to be cached."""
        if not is_shards(data):
            return self.open_cached(data, cache_folder, cache) if cache_folder else self.open_list(data, crop)
        if cache_folder:
            raise UserError("--feature-cache works with a list, not with shards; leave it out or give the list")
        return self.open_shards(data, crop, shards)

    def _pairs(self, path: str, crop: bool) -> ImagePairs:
        pairs = read_pair_list(path, self.columns)
        return ImagePairs(pairs, self.preparation, crop, self.seed, self.clip.sizes.context_length)

    def _list_source(self, rows, count: int, workers: int) -> ListSource:
        return ListSource(rows, count, self.batch_size, self.seed, self.process, workers)
