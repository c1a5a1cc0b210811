"""What is trained on and how it is read: one value, from which `data/open.py` opens a source."""

from __future__ import annotations

from dataclasses import dataclass

from context_i2w.command_line import OptionError, Options, nested, option

BATCHES = ("random", "similar")
VIEWS_KEPT = 4  # of each image in the feature cache, where the mapper sees another view than the target's


@dataclass(frozen=True)
class ViewOptions(Options):
    """What the mapper sees of a training image, beyond the paper.

    By default the very image that the composed text is to match. Otherwise a view that lacks or contradicts a part of
    it, so that only the masked caption can tell that part.
    """

    crop: float = option(
        0.0, "the mapper sees a crop of at least this share of the image, while the text is to match the whole; 0: off",
        flag="view-crop", metavar="SHARE", at_least=0, at_most=1,
    )  # fmt: skip
    colour: float = option(
        0.0, "this share of images is shown to the mapper grey or with turned hues; 0: off",
        flag="view-colour", metavar="SHARE", at_least=0, at_most=1,
    )  # fmt: skip
    # so that what the caption leaves out is right
    told: bool = option(False, "--view-colour only where the caption names a colour", flag="view-told")

    def __post_init__(self):
        super().__post_init__()
        if self.told and not self.colour:
            raise OptionError("told", self.told, "it says where colours change; give --view-colour SHARE too")

    @property
    def differs(self) -> bool:
        """Whether the view is not the target itself."""
        return self.crop > 0 or self.colour > 0


@dataclass(frozen=True)
class ListColumns(Options):
    """Names of a list's columns, and what stands between them."""

    image: str = option("filepath", "column of the image files", flag="image-column", metavar="NAME")
    caption: str = option("title", "column of the captions", flag="caption-column", metavar="NAME")
    masked: str = option("masked_title", "column of the masked captions", flag="masked-column", metavar="NAME")
    separator: str = option("\t", "what stands between columns, if it stands in the first line", metavar="CHAR")


@dataclass(frozen=True)
class ShardOptions(Options):
    """How shards are read."""

    samples: int | None = option(
        None, "in the shards, if no sizes.json or _stats.json tells", flag="train-samples", metavar="N", at_least=1
    )
    # held encoded in memory, over all processes
    shuffle: int = option(8192, "samples of shards shuffled at a time", metavar="N", at_least=1)


@dataclass(frozen=True)
class CacheOptions(Options):
    """How features are kept."""

    tokens: bool = True  # False: embeddings only, for mappers that read no tokens
    precision: str = option("fp16", "of cached image tokens", flag="cache-precision", choices=("fp16", "int8"))
    # 0: the whole image as at evaluation; K: K random crops or views, one for each epoch in turn
    crops: int = option(
        0, "random crops (or views) cached per image; 0: whole image", metavar="K", at_least=0, at_most=10_000
    )


@dataclass(frozen=True)
class DataOptions(Options):
    """Training and validation data, and what is made of them."""

    train_data: str | None = option(None, "list (TSV, CSV, Parquet) or WebDataset shards", metavar="LIST|SHARDS")
    val_data: str | None = option(None, "held-out list, for a validation loss after each epoch", metavar="LIST")
    columns: ListColumns = nested(ListColumns)
    shards: ShardOptions = nested(ShardOptions)
    max_broken: float = option(0.1, "broken pairs that stop the run", metavar="SHARE", at_least=0, at_most=1)
    feature_cache: str | None = option(None, "keep CLIP's features here; later epochs read them", metavar="DIR")
    cache: CacheOptions = nested(CacheOptions)
    view: ViewOptions = nested(ViewOptions)
    image_reader: str = option(
        "fast", "how images are read: JPEGs by torchvision, or all by Pillow as benchmarks are; cached ones always so",
        choices=("fast", "exact"),
    )  # fmt: skip
    batches: str = option(
        "random", "similar: of groups of images that look alike to CLIP, by cached embeddings", choices=BATCHES
    )
    workers: int = option(
        4, "reading processes of each training process; of cached features, threads", at_least=0, at_most=512
    )
