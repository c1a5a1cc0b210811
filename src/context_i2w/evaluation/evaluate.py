"""One benchmark, all rows: features to queries to rankings to metrics.

Rows: `image` (the reference's embedding), `text` (the description's), `image+text` (the sum of the two unit
vectors) and one composed row for every mapper.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import normalize
from tqdm import tqdm

from context_i2w.benchmarks.base import Benchmark, QueryGroup, check_images_exist
from context_i2w.evaluation.features import Encoded, EncodingOptions, encode
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.mappers import Mapper
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import mean_over_groups

BASELINES = ("image", "text", "image+text")
TOP = 50  # gallery images kept of each query's ranking


@dataclass
class Result:
    """Numbers of one benchmark. Keys of `metrics`: group (with `mean` if several), row, metric; percent.

    tops: (group, row) -> the best gallery indices of each query [Q, <= 50], -1 where none is left.
    submissions: row -> kind -> content, for tests without public answers.
    passes: how many images, texts and compositions went through CLIP. seconds: wall time of the evaluation.
    """

    benchmark: Benchmark
    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    tops: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    submissions: dict[str, dict[str, Any]] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def evaluate(
    benchmark: Benchmark,
    clip: FrozenCLIP,
    mappers: Mapping[str, Mapper],
    options: EncodingOptions | None = None,
) -> Result:
    """All rows of a benchmark; mappers: name of the row -> mapper for `clip`.

    Raises UserError listing missing files before anything is encoded, and unreadable ones after reading all.
    """
    started = time.monotonic()
    check_images_exist(benchmark)
    encoded = encode(benchmark, clip, mappers, options or EncodingOptions())
    result = Result(benchmark, passes=encoded.passes)
    rows = (*BASELINES, *mappers)
    with tqdm(total=len(benchmark.groups) * len(rows), desc=f"{benchmark.name}: ranking", unit="row") as bar:
        for group in benchmark.groups:
            result.metrics[group.name] = {}
            for row in rows:
                _rank(group, row, encoded, result)
                bar.update()
    if len(benchmark.groups) > 1:
        groups = result.metrics.values()
        result.metrics["mean"] = {row: mean_over_groups([group[row] for group in groups]) for row in rows}
    result.seconds = time.monotonic() - started
    return result


def query_features(group: QueryGroup, row: str, encoded: Encoded) -> torch.Tensor:
    """Unit features [Q, E] of a group's queries under one row."""
    if row == "image":
        return encoded.image_features[[encoded.images[source] for source in group.references]]
    if row == "text":
        return _mean_of(group.texts, encoded.texts, encoded.text_features)
    if row == "image+text":
        return normalize(query_features(group, "image", encoded) + query_features(group, "text", encoded), dim=-1)
    pairs = [tuple((source, prompt) for prompt in prompts) for source, prompts in zip(group.references, group.prompts)]
    return _mean_of(pairs, encoded.slots, encoded.composed[row])


def rank(group: QueryGroup, row: str, encoded: Encoded) -> Ranking:
    gallery = encoded.image_features[[encoded.images[source] for source in group.gallery]]
    return Ranking(query_features(group, row, encoded), gallery, group.excluded, group.candidates)


def _rank(group: QueryGroup, row: str, encoded: Encoded, result: Result) -> None:
    ranking = rank(group, row, encoded)
    result.metrics[group.name][row] = group.score(ranking)
    result.tops[group.name, row] = ranking.top(TOP)
    if result.benchmark.submission is not None:
        result.submissions[row] = result.benchmark.submission(ranking)


def _mean_of(keys, numbers: Mapping, features: torch.Tensor) -> torch.Tensor:
    """Feature of each query; of a query with several texts the mean of their unit features, unit again."""
    if all(len(row) == 1 for row in keys):
        return features[[numbers[row[0]] for row in keys]]
    return normalize(torch.stack([features[[numbers[key] for key in row]].mean(0) for row in keys]), dim=-1)
