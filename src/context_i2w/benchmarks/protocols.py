"""Whose evaluation: the prompts, captions, image preparation and placeholder of SEARLE and LinCIR beside our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from context_i2w.benchmarks.base import Benchmark, QueryGroup
from context_i2w.model.images import ImageSource

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
