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
    """`load(data_root, options)` gives a Benchmark; `options` is the class of its protocol's variants.

    measure: the metric that the benchmark is best known by, of its mean where it has groups.
    """

    load: Callable[[str, Any], Benchmark]
    options: type
    measure: str


BENCHMARKS = {
    "coco": Kind(coco.load, coco.COCOOptions, "R@1"),
    "imgnet": Kind(imagenet.load, imagenet.ImageNetOptions, "R@10"),
    "cirr": Kind(cirr.load, cirr.CIRROptions, "R@1"),
    "cirr_test": Kind(cirr.load_test, cirr.CIRROptions, "R@1"),
    "fashion": Kind(fashioniq.load, fashioniq.FashionIQOptions, "R@10"),
    "circo": Kind(circo.load, circo.CIRCOOptions, "mAP@5"),
    "genecis": Kind(genecis.load, genecis.GeneCISOptions, "R@1"),
    "icir": Kind(icir.load, icir.ICIROptions, "mAP"),
    **{mode: Kind(partial(domains.load, kind), domains.DomainOptions, "mAP") for mode, kind in domains.SETS.items()},
}
