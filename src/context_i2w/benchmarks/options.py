"""The benchmarks by the names of `--eval-mode`, and the variants of their protocols. Imports nothing that takes time.

A further one takes a module with a `load(data_root, options)` and a line in BENCHMARKS. One of the user's own is a
class in a file of theirs, `--eval-mode my_file.py:MyBenchmark` (docs/extending.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from context_i2w.command_line import Options, option
from context_i2w.model.extensions import find_class

if TYPE_CHECKING:
    from context_i2w.benchmarks.base import Benchmark

PROMPTS = {"paper": "a photo of [*] , {caption}", "that": "a photo of [*] that {caption}"}
WHOSE = "prompt; `that` is SEARLE's and LinCIR's"
GARMENTS = ("dress", "shirt", "toptee")
SOURCES = {"all": "the three garments and their mean"} | {garment: f"{garment} only" for garment in GARMENTS}
CAPTIONS = {
    "reversed": "one text, second caption first (the paper)",
    "forward": "one text, first caption first",
    "both-orders": "both orders, their features averaged (SEARLE, LinCIR)",
}
GALLERIES = {"split": "the whole split", "val-pairs": "references and targets only (higher numbers)"}
VIEWS = {"centre": "shorter side resized, centre crop", "pad": "padded to a ratio of 1.25, then the same"}
FASHION_PROMPTS = {"paper": "a photo of [*] , {first} and {second}", "that": "a photo of [*] that {first} and {second}"}
ENDINGS = {
    "paper": "without other classes the text ends in `and ` (published)",
    "clean": "without other classes the last `and ` is left out",
}
TASKS = {"all": "the four tasks and their mean", "object": "the two object tasks", "attribute": "the other two"}
SPLITS = {"val": "220 queries with answers", "test": "800 queries without, for the test server"}


@dataclass(frozen=True)
class CIRROptions(Options):
    prompt: str = option("paper", WHOSE, choices=PROMPTS, flag="cirr-prompt")


@dataclass(frozen=True)
class CIRCOOptions(Options):
    split: str = option("val", "queries", choices=SPLITS, flag="circo-split")
    prompt: str = option("paper", WHOSE, choices=PROMPTS, flag="circo-prompt")


@dataclass(frozen=True)
class COCOOptions(Options):
    ending: str = option("paper", "prompt of a query without other classes", choices=ENDINGS, flag="coco-ending")


@dataclass(frozen=True)
class FashionIQOptions(Options):
    source: str = option("all", "garments", choices=SOURCES)
    captions: str = option("reversed", "how the two captions are joined", choices=CAPTIONS, flag="fashioniq-captions")
    gallery: str = option("split", "images that are ranked", choices=GALLERIES, flag="fashioniq-gallery")
    image: str = option("centre", "preparation of images", choices=VIEWS, flag="fashioniq-image")
    prompt: str = option("paper", WHOSE, choices=FASHION_PROMPTS, flag="fashioniq-prompt")


@dataclass(frozen=True)
class GeneCISOptions(Options):
    tasks: str = option(
        "all", "tasks; attribute tasks need Visual Genome's images", choices=TASKS, flag="genecis-tasks"
    )
    prompt: str = option("paper", WHOSE, choices=PROMPTS, flag="genecis-prompt")


@dataclass(frozen=True)
class ICIROptions(Options):
    prompt: str = option("paper", "prompt; none is published for pseudo-words", choices=PROMPTS, flag="icir-prompt")


PREPARATIONS = {
    "centre": "shorter side resized, centre crop",
    "pad": "padded in black to a ratio of 1.25, then shorter side resized, centre crop (SEARLE's default)",
    "rgb-first": "RGB first, shorter side resized, centre crop with its offset rounded down (LinCIR's default)",
}


@dataclass(frozen=True)
class Protocol:
    """options: of the benchmarks that have them. preparation: of whole images. dollar: see Benchmark."""

    preparation: str = "centre"
    dollar: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


_THEIRS = {"prompt": "that", "captions": "both-orders"}
PROTOCOLS = {
    "ours": Protocol(),
    "searle": Protocol("pad", "first", _THEIRS),
    "lincir": Protocol("rgb-first", "every", _THEIRS),
}


@dataclass(frozen=True)
class Kind:
    """`load(data_root, options)` gives a Benchmark; `options` is the class of its protocol's variants.

    function: module and name of what loads it. of: its first arguments. measure: the metric that the benchmark is best
    known by, of its mean where it has groups.
    """

    function: str
    options: type = Options  # without variants in the literature
    measure: str = "R@1"
    of: tuple[str, ...] = ()

    def load(self, data_root: Any, options: Any = None) -> Benchmark:
        """Raises UserError for missing or damaged files."""
        module, _, name = self.function.partition(":")
        function = getattr(importlib.import_module(f"context_i2w.benchmarks.{module}"), name)
        return function(*self.of, data_root, options or self.options())


BENCHMARKS = {
    "coco": Kind("coco:load", COCOOptions),
    "imgnet": Kind("imagenet:load", measure="R@10"),
    "cirr": Kind("cirr:load", CIRROptions, of=("val",)),
    "cirr_test": Kind("cirr:load", CIRROptions, of=("test1",)),
    "fashion": Kind("fashioniq:load", FashionIQOptions, "R@10"),
    "circo": Kind("circo:load", CIRCOOptions, "mAP@5"),
    "genecis": Kind("genecis:load", GeneCISOptions),
    "icir": Kind("icir:load", ICIROptions, "mAP"),
    **{mode: Kind("domains:load", measure="mAP", of=(mode,)) for mode in ("nico", "minidn", "ltll", "imagenet-r-all")},
}


def find_benchmark(name: str) -> Any:
    """A Kind of ours, or a class of the user's own with `load(data_root, options)`. Raises UserError."""
    return BENCHMARKS[name] if name in BENCHMARKS else find_class(name, BENCHMARKS, "benchmark")
