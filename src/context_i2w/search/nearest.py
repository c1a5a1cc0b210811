"""The nearest rows of a memory-mapped matrix, exactly, in bounded memory: the evaluation's ranking over a file."""

import numpy as np
import torch
from torch import Tensor

from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.similarity import exact


def nearest(queries: Tensor, gallery: Tensor | np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    """The best rows of each query in order, equal ones by index: indices [Q, k] int64, similarities [Q, k].

    queries [Q, E] and gallery [n, E]: unit rows, float32, all finite; k = min(count, n). The ranking remembers a
    gallery that is the same tensor.
    """
    queries, rows = queries.cpu().float(), torch.as_tensor(gallery)
    indices = Ranking(queries, rows).top(count)
    query = torch.arange(len(indices)).repeat_interleave(indices.shape[1])
    return indices, exact(queries, query, rows, indices.flatten()).view(indices.shape)
