"""An order of the training pairs in which neighbours look alike: harder batches for a contrastive loss."""

import numpy as np
import torch
from torch import Tensor


def similar_order(embeddings: Tensor, leaf: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation of the rows of embeddings [n, E] in which each run of about `leaf` rows lies close together.

    A tree of random projections: the rows are halved at the median of a direction drawn at random until the parts are
    as small as `leaf`; the parts then come in random order. Another generator gives other neighbours.
    """
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    unit = unit - unit.mean(0)
    parts = [torch.from_numpy(rng.permutation(len(unit)))]
    while len(parts[0]) > leaf:
        halves: list[Tensor] = []
        for part in parts:
            direction = torch.from_numpy(rng.standard_normal(unit.shape[1])).float()
            ordered = part[(unit[part] @ direction).argsort(stable=True)]
            halves += ordered.chunk(2)
        parts = halves
    return torch.cat([parts[number] for number in rng.permutation(len(parts))]).numpy()
