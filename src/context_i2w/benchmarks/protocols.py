"""Whose evaluation: the prompts, captions, image preparation and placeholder of SEARLE and LinCIR beside our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from context_i2w.benchmarks.base import Benchmark, QueryGroup
from context_i2w.benchmarks.options import PREPARATIONS, PROTOCOLS
from context_i2w.model.images import ImageSource


def under(benchmark: Benchmark, name: str, preparation: str | None = None) -> Benchmark:
    """The benchmark with the image preparation and the placeholder of a protocol, which its own then names.

    preparation: in place of the protocol's. Regions and padded squares keep the benchmark's own.
    """
    protocol = PROTOCOLS[name]
    preparation = preparation or protocol.preparation
    about = {"protocol": name} | dict(benchmark.protocol)
    if "image" in about and preparation != "centre":
        image = about["image"].removeprefix("centre: ")
        about["image"] = image.replace(PREPARATIONS["centre"], PREPARATIONS[preparation])
    if protocol.dollar:
        about["second $"] = "a pseudo-word too" if protocol.dollar == "every" else "text"
    groups = [_prepared(group, preparation) for group in benchmark.groups]
    return replace(benchmark, groups=groups, protocol=about, dollar=protocol.dollar)


def _prepared(group: QueryGroup, view: str) -> QueryGroup:
    def prepared(sources: Sequence[ImageSource]) -> list[ImageSource]:
        return [source._replace(view=view) if source.view == "centre" else source for source in sources]

    return replace(group, gallery=prepared(group.gallery), references=prepared(group.references))
