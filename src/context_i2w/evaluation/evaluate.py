"""One benchmark, all rows: features to queries to rankings to metrics.

A row is a method of a query (model/queries.py) under one mapper: `image`, `text`, `image*text`, `composed`,
`blended:0.7:0.65`; with several mappers `NAME METHOD`. Methods without a mapper have one row.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import normalize
from tqdm import tqdm

from context_i2w.benchmarks.base import Benchmark, QueryGroup, check_images_exist
from context_i2w.errors import UserError
from context_i2w.evaluation.compositions import compositions
from context_i2w.evaluation.features import Encoded, EncodingOptions, encode
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.mappers import Mapper
from context_i2w.model.queries import DEFAULT_METHODS, PRODUCT, parse_method
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import mean_over_groups

BASELINES = ("image", "text", "image+text")
ONLY = "composed"  # the name of a mapper that is the only one
TOP = 50  # gallery images kept of each query's ranking


@dataclass
class Result:
    """Numbers of one benchmark. Keys of `metrics`: group (with `mean` if several), row, metric; percent.

    tops: (group, row) -> the best gallery indices of each query [Q, <= 50], -1 where none is left.
    submissions: row -> kind -> content, for tests without public answers.
    methods: row -> the method asked for. passes: how many images, texts and compositions went through CLIP.
    cut: how many texts were too long for CLIP and lost their end. seconds: wall time of the evaluation.
    """

    benchmark: Benchmark
    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    tops: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    submissions: dict[str, dict[str, Any]] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)
    cut: int = 0
    seconds: float = 0.0


def evaluate(
    benchmark: Benchmark,
    clip: FrozenCLIP,
    mappers: Mapping[str, Mapper],
    options: EncodingOptions | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
) -> Result:
    """All rows of a benchmark; mappers for `clip` by name, a single one being called "composed".

    Of several processes (options.process) the first alone ranks; the others' results have no rows.
    Raises UserError listing missing files before anything is encoded, and unreadable ones after reading all; and for
    a method that is not known.
    """
    started, options = time.monotonic(), options or EncodingOptions()
    rows = rows_of(methods, mappers)
    if clip.transform.deviation:
        benchmark.protocol["CLIP's transform"] = f"{clip.transform.deviation}, in place of CLIP's centre crop"
    check_images_exist(benchmark)
    needs = {vector for method, _ in rows.values() for vector in parse_method(method).needs}
    encoded = encode(benchmark, clip, mappers, options, needs)
    result = Result(benchmark, passes=encoded.passes, cut=encoded.cut)
    if not options.process.is_first:
        return result
    result.methods = {row: method for row, (method, _) in rows.items()}
    with tqdm(total=len(benchmark.groups) * len(rows), desc=f"{benchmark.name}: ranking", unit="row") as bar:
        for group in benchmark.groups:
            result.metrics[group.name] = {}
            gallery = gallery_features(group, encoded)
            for row, (method, mapper) in rows.items():
                _score(result, group, row, rank(group, method, encoded, mapper, gallery))
                bar.update()
    if len(benchmark.groups) > 1:
        groups = result.metrics.values()
        result.metrics["mean"] = {row: mean_over_groups([group[row] for group in groups]) for row in rows}
    result.seconds = time.monotonic() - started
    return result


def row_name(method: str, mapper: str = ONLY) -> str:
    return method if mapper == ONLY else f"{mapper} {method}"


def rows_of(methods: Sequence[str], mappers: Iterable[str]) -> dict[str, tuple[str, str | None]]:
    """Row -> its method and the name of its mapper: first the methods that need none, then mapper by mapper.

    Raises UserError for an unknown method, and where all need a mapper and there is none.
    """
    of_mapper = [method for method in methods if parse_method(method).uses_mapper]
    rows: dict[str, tuple[str, str | None]] = {method: (method, None) for method in methods if method not in of_mapper}
    rows |= {row_name(method, mapper): (method, mapper) for mapper in mappers for method in of_mapper}
    if not rows:
        raise UserError(f"{', '.join(methods)}: of a mapper; give one by --resume, or --methods image,text,slerp")
    return rows


def query_features(group: QueryGroup, method: str, encoded: Encoded, mapper: str | None = ONLY) -> torch.Tensor:
    """Unit features [Q, E] of a group's queries under one method."""
    parsed = parse_method(method)
    return parsed(query_vectors(group, parsed.needs, encoded, mapper))


def query_vectors(
    group: QueryGroup, names: Iterable[str], encoded: Encoded, mapper: str | None = ONLY
) -> dict[str, torch.Tensor]:
    """The named vectors that queries are made of (model/queries.py), unit rows [Q, E] each."""
    return {name: _vector(name, group, encoded, mapper) for name in names}


def gallery_features(group: QueryGroup, encoded: Encoded) -> torch.Tensor:
    """Unit rows [G, E]; a view where they lie side by side, for galleries of gigabytes."""
    rows = [encoded.images[source] for source in group.gallery]
    if rows and rows == list(range(rows[0], rows[0] + len(rows))):
        return encoded.image_features[rows[0] : rows[0] + len(rows)]
    return encoded.image_features[rows]


def rank(
    group: QueryGroup,
    method: str,
    encoded: Encoded,
    mapper: str | None = ONLY,
    gallery: torch.Tensor | None = None,
) -> Ranking:
    """gallery: its features, where several rows are ranked. Raises UserError for a method that is not known."""
    gallery = gallery_features(group, encoded) if gallery is None else gallery
    if method != PRODUCT:
        return Ranking(query_features(group, method, encoded, mapper), gallery, group.excluded, group.candidates)
    image, text = query_vectors(group, ("image", "text"), encoded).values()
    return Ranking(image, gallery, group.excluded, group.candidates, second=(text, gallery))


def _score(result: Result, group: QueryGroup, row: str, ranking: Ranking) -> None:
    result.metrics[group.name][row] = group.score(ranking)
    result.tops[group.name, row] = ranking.top(TOP)
    if result.benchmark.submission is not None:
        result.submissions[row] = result.benchmark.submission(ranking)


def _vector(name: str, group: QueryGroup, encoded: Encoded, mapper: str | None) -> torch.Tensor:
    """Unit rows [Q, E] of one of the vectors that queries are made of."""
    if name == "image":
        return encoded.image_features[[encoded.images[source] for source in group.references]]
    if name == "text":
        return _mean_of(group.texts, encoded.texts, encoded.text_features)
    assert mapper is not None  # the other vectors are a mapper's
    composer = encoded.composers[mapper]
    keys = [compositions(name, *query, composer.mapper) for query in zip(group.references, group.prompts)]
    return _mean_of(keys, composer.numbers, composer.features)


def _mean_of(keys, numbers: Mapping, features: torch.Tensor) -> torch.Tensor:
    """Feature of each query; of a query with several texts the mean of their unit features, unit again."""
    if all(len(row) == 1 for row in keys):
        return features[[numbers[row[0]] for row in keys]]
    return normalize(torch.stack([features[[numbers[key] for key in row]].mean(0) for row in keys]), dim=-1)
