"""The benchmarks' metrics as pure functions of ranks and hits; shares are in percent."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# The published ImageNet-R metric divides by (positives + 1e-5) so that a query without positives counts 0.
PUBLISHED_EPSILON = 1e-5


class Mean(float):
    """A reported number that keeps what it is the mean of.

    values [n] float64: one of each query, in the number's own unit. weights [n]: their shares, sum 1; None: equal.
    """

    values: torch.Tensor
    weights: torch.Tensor | None

    def __new__(cls, number: float, values: torch.Tensor, weights: torch.Tensor | None = None) -> Mean:
        mean = super().__new__(cls, number)
        mean.values, mean.weights = values, weights
        return mean


def recall_at(ranks: torch.Tensor, cutoffs: Sequence[int], name: str = "R@{}") -> dict[str, float]:
    """Share of queries whose target's rank (1 the best) is at most K. ranks [Q]."""
    return {name.format(k): _percent(ranks <= k) for k in cutoffs}


def rank_statistics(ranks: torch.Tensor) -> dict[str, float]:
    """Mean and median rank, 1 the best; a median between two ranks is rounded down as published."""
    median = torch.quantile(ranks.double(), 0.5).floor().item() if len(ranks) else 0.0
    return {"mean rank": Mean(_mean(ranks), ranks.double()), "median rank": median}


def recall_and_precision_at(
    hits: torch.Tensor, positives: torch.Tensor, cutoffs: Sequence[int], gallery_size: int
) -> dict[str, float]:
    """Published ImageNet-R metric. hits [Q, top] bool in ranking order, positives [Q] counts in the gallery.

    R@K = hits in the top K / positives (not hit@K), P@K = hits in the top K / min(K, gallery).
    """
    found = hits.double().cumsum(1)
    at = {k: found[:, min(k, hits.shape[1]) - 1] for k in cutoffs}
    recalls: dict[str, float] = {f"R@{k}": _percent(at[k] / (positives + PUBLISHED_EPSILON)) for k in cutoffs}
    return recalls | {f"P@{k}": _percent(at[k] / min(k, gallery_size)) for k in cutoffs}


def recall_of_each(tops: torch.Tensor, positives: Sequence[Sequence[int]], k: int) -> torch.Tensor:
    """Each query's part in R@K, in percent [Q]: positives among its first K / its positives (0 if it has none).

    tops [Q, >= K]: gallery indices in ranking order, -1 where none is left. With one positive per query the mean is
    the usual Recall@K, with several that of ImageNet-R.
    """
    found = [len(set(row) & set(wanted)) / max(len(wanted), 1) for row, wanted in zip(tops[:, :k].tolist(), positives)]
    return 100.0 * torch.tensor(found, dtype=torch.float64)


def recall_ceiling_at(positives: torch.Tensor, cutoffs: Sequence[int]) -> dict[str, float]:
    """What a perfect ranking reaches in `recall_and_precision_at`: K places hold at most K positives."""
    return {f"R@{k}": _percent(positives.clamp(max=k) / (positives + PUBLISHED_EPSILON)) for k in cutoffs}


def mean_average_precision_at(hits: torch.Tensor, positives: torch.Tensor, cutoffs: Sequence[int]) -> dict[str, float]:
    """CIRCO's mAP@K: mean of the sum over k <= K of P@k x relevance_k, divided by min(positives, K)."""
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    gains = hits.double().cumsum(1) / places * hits
    results: dict[str, float] = {}
    for k in cutoffs:
        results[f"mAP@{k}"] = _percent(gains[:, :k].sum(1) / positives.clamp(max=k))
    return results


def average_precisions(ranks: torch.Tensor) -> torch.Tensor:
    """Average precision of each query [Q] in percent, by the trapezoid rule of the Oxford and Paris evaluations.

    ranks [Q, P]: of the query's positives, ascending, 1 the best, 0 where it has fewer. A query with none gets 0.
    With r the 0-based rank of the j-th positive (j from 0) it is the sum of (j/r + (j+1)/(r+1)) / 2, the first 1 where
    r = 0, divided by (positives + 1e-5).
    """
    found, count = torch.arange(ranks.shape[1], dtype=torch.float64), (ranks > 0).sum(1).double()
    before = torch.where(ranks == 1, 1.0, found / (ranks - 1))
    areas = (before + (found + 1) / ranks) / 2
    return 100.0 * areas.masked_fill(ranks == 0, 0.0).sum(1) / (count + PUBLISHED_EPSILON)


def mean_average_precision(ranks: torch.Tensor) -> dict[str, float]:
    """mAP over all queries, each over its whole ranking (see `average_precisions`)."""
    values = average_precisions(ranks)
    return {"mAP": Mean(_mean(values), values)}


def mean_average_precision_by_instance(ranks: torch.Tensor, instances: Sequence[str]) -> dict[str, float]:
    """i-CIR's: mAP over all queries; mmAP, the mean over instances of the instance's mean; minmAP, of its least."""
    values = average_precisions(ranks)
    rows: dict[str, list[int]] = {}
    for row, instance in enumerate(instances):
        rows.setdefault(instance, []).append(row)
    mean, least = torch.zeros_like(values), torch.zeros_like(values)
    for of_instance in rows.values():
        mean[of_instance] = 1 / (len(rows) * len(of_instance))
        least[of_instance[int(values[of_instance].argmin())]] = 1 / len(rows)
    weighted: dict[str, float] = {
        name: Mean(float(values @ weights), values, weights) for name, weights in (("mmAP", mean), ("minmAP", least))
    }
    return {"mAP": Mean(_mean(values), values)} | weighted


def domain_recall_and_precision(ranks: torch.Tensor, cutoffs: Sequence[int]) -> dict[str, float]:
    """FREEDOM's. R@K = hits in the top K / positives; P_capped@K = hits in the top K / min(positives, K).

    ranks [Q, P] as in `average_precisions`. The second is not ImageNet-R's P@K, which divides by K.
    """
    count = (ranks > 0).sum(1).double()
    hits = {k: ((ranks > 0) & (ranks <= k)).sum(1).double() for k in cutoffs}
    recalls: dict[str, float] = {f"R@{k}": _percent(hits[k] / (count + PUBLISHED_EPSILON)) for k in cutoffs}
    return recalls | {f"P_capped@{k}": _percent(hits[k] / (count.clamp(max=k) + PUBLISHED_EPSILON)) for k in cutoffs}


def mean_over_groups(groups: Sequence[dict[str, float]]) -> dict[str, float]:
    """Unweighted mean of every metric that all groups have."""
    shared = [name for name in groups[0] if all(name in group for group in groups)]
    return {name: sum(group[name] for group in groups) / len(groups) for name in shared}


def _percent(shares: torch.Tensor) -> Mean:
    return Mean(100.0 * _mean(shares), 100.0 * shares.double().cpu())


def _mean(values: torch.Tensor) -> float:
    return values.double().mean().item() if len(values) else 0.0
