"""What chance leaves open in a benchmark's numbers: bootstrap intervals over its queries, by reference image."""

import numpy as np

from context_i2w.evaluation.compositions import numbered
from context_i2w.evaluation.evaluate import Result
from context_i2w.ranking.metrics import Mean
from context_i2w.ranking.significance import bootstrap_intervals

Intervals = dict[str, dict[str, dict[str, tuple[float, float]]]]  # group -> row -> metric -> (low, high)


def intervals(result: Result, level: float = 0.95) -> Intervals:
    """Of every number that is a mean over queries, those of `mean` too; queries of a reference image go together."""
    units = reference_numbers(result)
    found = {name: _of_group({name: rows}, units, level) for name, rows in result.metrics.items() if name in units}
    if "mean" in result.metrics and len(units) > 1:
        found["mean"] = _of_group({name: result.metrics[name] for name in units}, units, level)
    return found


def reference_numbers(result: Result) -> dict[str, np.ndarray]:
    """By group the number of each query's reference image [Q], the same for the same image in all groups."""
    groups = result.benchmark.groups
    numbers = numbered(source for group in groups for source in group.references)
    return {group.name: np.array([numbers[source] for source in group.references]) for group in groups}


def means_over_queries(metrics: dict[str, float], queries: int) -> dict[str, Mean]:
    """The metrics that are means of one value for each query."""
    return {name: m for name, m in metrics.items() if isinstance(m, Mean) and len(m.values) == queries}


def _of_group(groups: dict[str, dict], units: dict[str, np.ndarray], level: float) -> dict[str, dict[str, tuple]]:
    """Intervals of the unweighted mean of some groups, by row and metric."""
    found: dict[tuple[str, str], list[Mean]] = {}  # row, metric -> each group's
    for row in next(iter(groups.values())):
        means = [means_over_queries(rows[row], len(units[name])) for name, rows in groups.items()]
        found |= {(row, name): [of[name] for of in means] for name in means[0] if all(name in of for of in means)}
    if not found:
        return {}
    values = np.stack([np.concatenate([m.values.numpy() for m in means]) for means in found.values()])
    weights = np.stack([np.concatenate([_weights(m) for m in means]) for means in found.values()])
    bounds = bootstrap_intervals(values, weights, np.concatenate([units[name] for name in groups]), level)
    results: dict[str, dict[str, tuple]] = {row: {} for row in next(iter(groups.values()))}
    for (row, name), (low, high) in zip(found, bounds.tolist(), strict=True):
        results[row][name] = low, high
    return results


def _weights(mean: Mean) -> np.ndarray:
    return np.full(len(mean.values), 1 / len(mean.values)) if mean.weights is None else mean.weights.numpy()
