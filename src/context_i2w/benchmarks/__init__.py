"""The benchmarks by the names of `--eval-mode`. A further one takes a module and a line in BENCHMARKS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from context_i2w.benchmarks import circo, cirr, coco, domains, fashioniq, genecis, icir, imagenet
from context_i2w.benchmarks.base import Benchmark, QueryGroup, check_images_exist

__all__ = ["BENCHMARKS", "Benchmark", "Kind", "QueryGroup", "check_images_exist"]


@dataclass(frozen=True)
class Kind:
    """`load(data_root, options)` gives a Benchmark; `options` is the class of its protocol's variants."""

    load: Callable[[str, Any], Benchmark]
    options: type


BENCHMARKS = {
    "coco": Kind(coco.load, coco.COCOOptions),
    "imgnet": Kind(imagenet.load, imagenet.ImageNetOptions),
    "cirr": Kind(cirr.load, cirr.CIRROptions),
    "cirr_test": Kind(cirr.load_test, cirr.CIRROptions),
    "fashion": Kind(fashioniq.load, fashioniq.FashionIQOptions),
    "circo": Kind(circo.load, circo.CIRCOOptions),
    "genecis": Kind(genecis.load, genecis.GeneCISOptions),
    "icir": Kind(icir.load, icir.ICIROptions),
    **{mode: Kind(partial(domains.load, kind), domains.DomainOptions) for mode, kind in domains.SETS.items()},
}
