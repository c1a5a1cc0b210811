"""The options of `src/demo.py`. Imports nothing that takes time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_i2w.benchmarks.options import FashionIQOptions
from context_i2w.command_line import OptionError, Options, nested, option, parse
from context_i2w.errors import UserError
from context_i2w.evaluation.options import DeviceChoice, ModelChoice
from context_i2w.model.queries import FORMS, parse_method

# Whose pictures are searched, if no folder: a benchmark's gallery, by benchmark and protocol.
GALLERIES: dict[str, tuple[str, Any]] = {name: (name, None) for name in ("coco", "imgnet", "cirr")}
GALLERIES |= {garment: ("fashion", FashionIQOptions(source=garment)) for garment in ("dress", "shirt", "toptee")}


@dataclass(frozen=True)
class WhatToDo(Options):
    """A gallery, a page or an explanation."""

    output: str = option("demo.html", "where the gallery goes", metavar="FILE.html")
    serve: bool = option(False, "open a page for the browser instead")
    host: str = option("127.0.0.1", "address for --serve; the default is this machine alone")
    port: int = option(7860, "port for --serve; 0: any free one", at_least=0, at_most=65535)
    explain: bool = option(False, "print the words nearest to the pseudo-word tokens instead")
    export: str | None = option(
        None, "write the gallery's features to FILE.parquet, to FILE.npy, or in parts to a folder", metavar="FILE|DIR"
    )
    export_part: int = option(0, "number of the first part; machines that share the work write others", at_least=0)

    def __post_init__(self):
        super().__post_init__()
        if self.serve and self.explain:
            raise UserError("--serve and --explain exclude each other; leave one out")
        if self.export_part and (not self.export or Path(self.export).suffix):
            raise OptionError("export_part", self.export_part, "parts are written to a folder: give --export DIR")


@dataclass(frozen=True)
class Question(Options):
    """What is asked, of which pictures."""

    images: str | None = option(
        None, "images to search: any folder, a text file with a path in each line, WebDataset shards by a pattern "
        "(shards/{00000..00010}.tar), a folder of embeddings, or a benchmark's gallery; left out: the toy world's, "
        "for a toy checkpoint",
        metavar="DIR|FILE|" + "|".join(GALLERIES),
    )  # fmt: skip
    query: tuple[str, ...] = option((), "reference images; left out: three of the gallery", metavar="FILE")
    prompts: tuple[str, ...] = option(
        (), 'descriptions; "[*]" stands for the reference, e.g. "a sketch of [*]"; left out: a few examples',
        metavar="TEXT",
    )  # fmt: skip
    method: str | None = option(
        None, "how the gallery's queries are formed: " + ", ".join(FORMS) + "; left out: the recommended way, with "
        "which the page begins",
    )  # fmt: skip
    k: int = option(10, "results for each query", at_least=1, at_most=1000)
    compare: bool = option(False, "image only, text only and image + text beside the mappers")
    heat_maps: bool = option(False, "where Context-I2W looked, in the gallery too")

    def __post_init__(self):
        super().__post_init__()
        if self.method:
            parse_method(self.method)


@dataclass(frozen=True)
class IndexOptions(Options):
    """How pictures are kept and searched."""

    cache: str | None = option(None, "where features are kept; left out: ~/.cache/context-i2w", metavar="DIR")
    factory: str | None = option(
        None,
        "search approximately by FAISS, e.g. IVF1024,PQ64 or HNSW32, or by an index file; left out: exactly",
        metavar="TEXT|FILE",
    )
    parameters: str = option("", "FAISS's search parameters, e.g. nprobe=32", metavar="TEXT")

    def __post_init__(self):
        super().__post_init__()
        if self.parameters and not self.factory:
            reason = "it needs --factory, a FAISS factory string such as IVF1024,PQ64"
            raise OptionError("parameters", self.parameters, reason)


@dataclass(frozen=True)
class DemoSettings(Options):
    """Everything that src/demo.py is told."""

    what: WhatToDo = nested(WhatToDo, "what to do (left out: write an HTML gallery)")
    question: Question = nested(Question, "references and descriptions")
    model: ModelChoice = nested(ModelChoice, "model")
    data_root: str | None = option(None, "folder of the benchmarks; left out: data, for a toy checkpoint data/toy/test")
    machine: DeviceChoice = nested(DeviceChoice, "machine")
    index: IndexOptions = nested(IndexOptions, "index")

    def __post_init__(self):
        super().__post_init__()
        if self.question.method and (self.what.serve or self.what.explain):
            reason = "it is for the gallery; the page has its own choice, and --explain forms no queries"
            raise OptionError("method", self.question.method, reason)


def parse_demo(
    argv: Sequence[str] | None, description: str, prog: str = "python src/demo.py", **defaults: Any
) -> DemoSettings:
    """From the command line; one line and exit status 2 for an error. defaults: other ones, by key."""
    shown = {"here": defaults} if defaults else None
    return parse(DemoSettings, argv, prog=prog, description=description, recipe=lambda _: defaults, shown=shown)
