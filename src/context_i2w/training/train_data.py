"""What a training run reads: a list, its cached features, or shards."""

from context_i2w.data.augmentation import TrainPreparation, ViewOptions
from context_i2w.data.batches import ListSource, PairSource
from context_i2w.data.feature_cache import CacheOptions, open_cache
from context_i2w.data.pairs import ImagePairs, ListColumns, Order, read_pair_list
from context_i2w.data.shard_files import is_shards
from context_i2w.data.shards import ShardOptions, ShardSource
from context_i2w.data.similar_order import similar_order
from context_i2w.distributed import Process, barrier
from context_i2w.errors import UserError
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.fast_images import PREPARATIONS
from context_i2w.model.images import Preparation
from context_i2w.model.prompts import Tokenizer

BATCHES = ("random", "similar")
GROUPS = 8  # of images that look alike in a global batch of similar ones


class TrainData:
    """Opens the training and the validation data of one run for one of its processes.

    `view` is what the mapper sees of training images; validation shows it the images themselves.
    image_reader: "fast" or "exact" (model/fast_images.py); what is cached is always exact.
    """

    def __init__(
        self,
        columns: ListColumns,
        clip: FrozenCLIP,
        batch_size: int,
        seed: int,
        process: Process,
        workers: int,
        image_reader: str = "fast",
    ):
        self.columns, self.clip, self.batch_size, self.seed = columns, clip, batch_size, seed
        self.process, self.workers = process, workers
        self.image_reader = image_reader

    def open_list(self, path: str, crop: bool, view: ViewOptions | None = None) -> ListSource:
        pairs = self._pairs(path, crop, view, self.image_reader)
        return self._list_source(pairs, len(pairs.pairs), self.workers)

    def open_cached(
        self, path: str, folder: str, options: CacheOptions, view: ViewOptions | None = None, batches: str = "random"
    ) -> ListSource:
        """A list's features; the first process writes those that `folder` lacks, the others wait."""
        pairs = self._pairs(path, options.crops > 0, view, "exact")
        first = self.process.is_first
        if not first:
            barrier()
        cache = open_cache(folder, pairs, self.clip, options, workers=self.workers, write=first)
        if first:
            barrier()
        order = None
        if batches == "similar":
            leaf = self.batch_size * self.process.world // GROUPS
            embeddings = cache.embeddings(range(len(pairs.pairs)))
            order = (batches, lambda rng: similar_order(embeddings, leaf, rng))
        return self._list_source(cache, len(pairs.pairs), 0, order)

    def open_shards(self, data: str, crop: bool, options: ShardOptions, view: ViewOptions | None = None) -> ShardSource:
        return ShardSource(
            data,
            self.columns.masked,
            TrainPreparation(self._preparation(self.image_reader), crop, view),
            Tokenizer(self.clip.sizes.context_length),
            self.batch_size,
            self.seed,
            self.process,
            self.workers,
            options,
        )

    def open(
        self,
        data: str,
        crop: bool,
        cache_folder: str | None,
        cache: CacheOptions,
        shards: ShardOptions,
        view: ViewOptions | None = None,
        batches: str = "random",
    ) -> PairSource:
        """Whatever `data` names. Raises UserError if it can't be read, or features of shards are to be cached."""
        if batches != "random" and not cache_folder:
            raise UserError("--batches similar goes by cached embeddings; give a list and --feature-cache DIR")
        if is_shards(data):
            if cache_folder:
                raise UserError("--feature-cache works with a list, not with shards; leave it out or give the list")
            return self.open_shards(data, crop, shards, view)
        if cache_folder:
            return self.open_cached(data, cache_folder, cache, view, batches)
        return self.open_list(data, crop, view)

    def _preparation(self, images: str) -> Preparation:
        return PREPARATIONS[images](self.clip.sizes.image_size, self.clip.image_mean, self.clip.image_std)

    def _pairs(self, path: str, crop: bool, view: ViewOptions | None, images: str) -> ImagePairs:
        pairs = read_pair_list(path, self.columns)
        return ImagePairs(pairs, self._preparation(images), crop, self.seed, self.clip.sizes.context_length, view)

    def _list_source(self, rows, count: int, workers: int, order: tuple[str, Order] | None = None) -> ListSource:
        return ListSource(rows, count, self.batch_size, self.seed, self.process, workers, order)
