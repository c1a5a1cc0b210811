"""The benchmarks' metrics as pure functions of ranks and hits; shares are in percent."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# The published ImageNet-R metric divides by (positives + 1e-5) so that a query without positives counts 0.
PUBLISHED_EPSILON = 1e-5


def recall_at(ranks: torch.Tensor, cutoffs: Sequence[int], name: str = "R@{}") -> dict[str, float]:
    """Share of queries whose target's rank (1 the best) is at most K. ranks [Q]."""
    return {name.format(k): 100.0 * _mean(ranks <= k) for k in cutoffs}


def rank_statistics(ranks: torch.Tensor) -> dict[str, float]:
    """Mean and median rank, 1 the best; a median between two ranks is rounded down as published."""
    median = torch.quantile(ranks.double(), 0.5).floor().item() if len(ranks) else 0.0
    return {"mean rank": _mean(ranks), "median rank": median}


def recall_and_precision_at(
    hits: torch.Tensor, positives: torch.Tensor, cutoffs: Sequence[int], gallery_size: int
) -> dict[str, float]:
    """Published ImageNet-R metric. hits [Q, top] bool in ranking order, positives [Q] counts in the gallery.

    R@K = hits in the top K / positives (not hit@K), P@K = hits in the top K / min(K, gallery).
    """
    found = hits.double().cumsum(1)
    at = {k: found[:, min(k, hits.shape[1]) - 1] for k in cutoffs}
    recalls = {f"R@{k}": 100.0 * _mean(at[k] / (positives + PUBLISHED_EPSILON)) for k in cutoffs}
    return recalls | {f"P@{k}": 100.0 * _mean(at[k] / min(k, gallery_size)) for k in cutoffs}


def recall_of_each(tops: torch.Tensor, positives: Sequence[Sequence[int]], k: int) -> torch.Tensor:
    """Each query's part in R@K, in percent [Q]: positives among its first K / its positives (0 if it has none).

    tops [Q, >= K]: gallery indices in ranking order, -1 where none is left. With one positive per query the mean is
    the usual Recall@K, with several that of ImageNet-R.
    """
    found = [len(set(row) & set(wanted)) / max(len(wanted), 1) for row, wanted in zip(tops[:, :k].tolist(), positives)]
    return 100.0 * torch.tensor(found, dtype=torch.float64)


def recall_ceiling_at(positives: torch.Tensor, cutoffs: Sequence[int]) -> dict[str, float]:
    """What a perfect ranking reaches in `recall_and_precision_at`: K places hold at most K positives."""
    return {f"R@{k}": 100.0 * _mean(positives.clamp(max=k) / (positives + PUBLISHED_EPSILON)) for k in cutoffs}


def mean_average_precision_at(hits: torch.Tensor, positives: torch.Tensor, cutoffs: Sequence[int]) -> dict[str, float]:
    """CIRCO's mAP@K: mean of the sum over k <= K of P@k x relevance_k, divided by min(positives, K)."""
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    gains = hits.double().cumsum(1) / places * hits
    results = {}
    for k in cutoffs:
        results[f"mAP@{k}"] = 100.0 * _mean(gains[:, :k].sum(1) / positives.clamp(max=k))
    return results


def mean_over_groups(groups: Sequence[dict[str, float]]) -> dict[str, float]:
    """Unweighted mean of every metric that all groups have."""
    shared = [name for name in groups[0] if all(name in group for group in groups)]
    return {name: sum(group[name] for group in groups) / len(groups) for name in shared}


def _mean(values: torch.Tensor) -> float:
    return values.double().mean().item() if len(values) else 0.0
