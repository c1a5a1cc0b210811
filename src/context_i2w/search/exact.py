"""The nearest rows of a memory-mapped matrix, exactly, in bounded memory.

The order is that of retrieval.py (float64 products rounded to float32, equal ones by index) at the price of float32:
a float32 product of unit vectors of width E is off by at most about E·2⁻²⁴, so every row within twice that of the
k-th best is kept and only those are computed again in float64.
"""

import numpy as np
import torch
from torch import Tensor

from context_i2w.retrieval import similarities, top_indices

BLOCK = 1 << 15  # gallery rows at once
QUERIES = 64  # queries at once


def nearest(queries: Tensor, gallery: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    """The best rows of each query in order: indices [Q, k] int64 and similarities [Q, k], k = min(count, n).

    queries [Q, E] and gallery [n, E]: unit rows, float32, all finite.
    """
    count = min(count, len(gallery))
    if not len(queries) or not count:
        return torch.empty(len(queries), count, dtype=torch.int64), torch.empty(len(queries), count)
    found = [_nearest(part, gallery, count) for part in queries.cpu().float().split(QUERIES)]
    return torch.cat([indices for indices, _ in found]), torch.cat([scores for _, scores in found])


def _nearest(queries: Tensor, gallery: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    margin = (queries.shape[1] + 2) * 2.0**-22
    best = torch.full((len(queries), count), -torch.inf)
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in queries]  # per query: indices, rough similarities
    for start in range(0, len(gallery), BLOCK):
        rough = queries @ torch.from_numpy(gallery[start : start + BLOCK]).T
        best = torch.cat([best, rough.topk(min(count, rough.shape[1])).values], dim=1).topk(count).values
        for row, (values, bound) in enumerate(zip(rough, best[:, -1] - margin)):
            places = (values >= bound).nonzero()[:, 0]
            kept[row].append((places + start, values[places]))
    exact = [
        _again(query, gallery, rows, bound - margin, count) for query, rows, bound in zip(queries, kept, best[:, -1])
    ]
    return torch.stack([indices for indices, _ in exact]), torch.stack([scores for _, scores in exact])


def _again(
    query: Tensor, gallery: np.ndarray, kept: list[tuple[Tensor, Tensor]], bound: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    indices = torch.cat([places[values >= bound] for places, values in kept])
    scores = similarities(query[None], torch.from_numpy(gallery[indices.numpy()]))
    order = top_indices(scores, count)[0]
    return indices[order], scores[0, order]
