"""Weights of the methods of a query, measured on one set and chosen by a rule, to be applied on another.

The rule: of each family the weights with the largest mean over benchmarks and mappers of the main measure, of equal
ones those that come first in FAMILIES. The best single method is the best of all that use a mapper.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from torch import Tensor
from tqdm import tqdm

from context_i2w.benchmarks.base import Benchmark, QueryGroup, check_images_exist
from context_i2w.evaluation.evaluate import ONLY, gallery_features, query_vectors
from context_i2w.evaluation.features import EncodingOptions, encode
from context_i2w.files import read_json
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.mappers import Mapper
from context_i2w.model.queries import Method, Vectors, parse_method
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import recall_of_each

MEASURES = {"cirr": "R@1", "genecis": "R@1", "circo": "mAP@5"}  # R@10 elsewhere
PLAIN = ("image", "text", "image+text", "composed")
_CHOICE = {
    "chosen_on": {"data_root": str, "measures": {str: str}},
    "families": {str: {"single": str, "by_benchmark": {str: str}}},
}
Scores = dict[str, dict[str, float]]  # method -> benchmark -> percent, the mean over mappers


def _names(form: str, *weights: Iterable[float]) -> tuple[str, ...]:
    return tuple(form.format(*(f"{weight:g}" for weight in chosen)) for chosen in product(*weights))


_TENTHS = [number / 10 for number in range(1, 10)]
FAMILIES = {
    "anchored": _names("anchored:{}", [number / 20 for number in range(1, 11)]),
    "blended": _names("blended:{}", _TENTHS),
    "blended by slerp": _names("blended:{}:{}", _TENTHS[1:], (0.6, 0.65, 0.7, 0.8)),
    "pdv": _names("pdv:{}:{}:{}", (0.6, 0.7, 0.8, 0.9), (1, 1.4), (1, 1.2)),
    "pdv plain": _names("pdv:{}:{}:{}:plain", (0.6, 0.7, 0.8, 0.9), (1, 1.4), (1, 1.2)),
    "slerp": _names("slerp:{}", [number / 20 for number in range(10, 20)]),
}


def measure(benchmark: str) -> str:
    return MEASURES.get(benchmark, "R@10")


def measure_all(
    benchmarks: Mapping[str, Benchmark], clip: FrozenCLIP, mappers: Mapping[str, Mapper], options: EncodingOptions
) -> Scores:
    """Every method of PLAIN and FAMILIES on every benchmark, each of which is encoded once.

    Of several processes (options.process) the first alone scores; the others' scores are empty.
    """
    methods = [*PLAIN, *(method for family in FAMILIES.values() for method in family)]
    needs = {vector for method in methods for vector in parse_method(method).needs}
    scores: Scores = {method: {} for method in methods}
    for name, benchmark in benchmarks.items():
        check_images_exist(benchmark)
        encoded = encode(benchmark, clip, mappers, options, needs)
        if not options.process.is_first:
            continue
        galleries = [(group, gallery_features(group, encoded)) for group in benchmark.groups]
        made = {
            mapper: [(*pair, query_vectors(pair[0], needs, encoded, mapper)) for pair in galleries]
            for mapper in mappers
        }
        for text in tqdm(methods, desc=f"{name}: methods", unit="method"):
            method = parse_method(text)
            of_mapper = mappers if method.uses_mapper else [next(iter(mappers))]
            found = [_score(method, *parts, measure(name)) for mapper in of_mapper for parts in made[mapper]]
            scores[text][name] = mean(found)
    return scores


def _score(method: Method, group: QueryGroup, gallery: Tensor, vectors: Vectors, name: str) -> float:
    ranking = Ranking(method(vectors), gallery, group.excluded, group.candidates)
    if not name.startswith("R@"):
        return group.score(ranking)[name]
    k = int(name[2:])  # a short list is many times quicker than all metrics
    return float(recall_of_each(ranking.top(k), group.positives, k).mean())


def choice(scores: Scores, chosen_on: Mapping[str, Any]) -> dict[str, Any]:
    """What the rule chooses, with all that was measured and the set that it was measured on."""

    def best(methods: Sequence[str], benchmark: str | None = None) -> str:
        return max(methods, key=lambda m: scores[m][benchmark] if benchmark else mean(scores[m].values()))

    benchmarks = list(next(iter(scores.values())))
    families: dict[str, dict[str, Any]] = {
        family: {"single": best(methods), "by_benchmark": {name: best(methods, name) for name in benchmarks}}
        for family, methods in FAMILIES.items()
    }
    singles = [found["single"] for found in families.values()]
    single = best([method for method in singles if parse_method(method).uses_mapper])
    means = {method: row | {"mean": mean(row.values())} for method, row in scores.items()}
    return {"chosen_on": dict(chosen_on), "single": single, "families": families, "scores": means}


def read_methods(words: Sequence[str], benchmark: str, data_root: Path) -> tuple[list[str], dict[str, Any]]:
    """The methods named, a FILE.json of scripts/sweep.py standing for those that it chose; {"methods_from": where}.

    Says where. Raises UserError for a file that can't be read.
    """
    methods, about = [], {}
    for word in words:
        if not word.endswith(".json"):
            methods.append(word)
            continue
        found = read_choice(Path(word))
        origin = {"file": word} | found["chosen_on"]
        methods += PLAIN
        for family in found["families"].values():
            methods += [family["single"], family["by_benchmark"].get(benchmark, family["single"])]
        on = f"{origin['data_root']} ({', '.join(origin['measures'])})"
        same = Path(origin["data_root"]).resolve() == data_root.resolve() and benchmark in origin["measures"]
        print(f"weights of {word} were chosen on {on}" + (": the very set that is evaluated now" if same else ""))
        about = {"methods_from": origin}
    return list(dict.fromkeys(methods)) or [ONLY], about


def read_choice(path: Path) -> dict[str, Any]:
    """What a file of scripts/sweep.py chose. Raises UserError."""
    return read_json(path, _CHOICE, "--methods takes a file of scripts/sweep.py")
