"""Similarities of pairs, exact and rough, and integers that sort as they do.

A similarity is the product summed in float64 and rounded to float32: the same pair of vectors then has the same
similarity wherever it stands in a block, so identical gallery images tie exactly and the order does not depend on how
the work is cut up. A product of two similarities is rounded once, and counts one below 0 as 0.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.weak import WeakTensorKeyDictionary

REMOVED = float("-inf")  # similarity of a gallery image that a query must not find
EXACT_PAIRS = 512  # at once in float64, so that they stay in the processor's cache
ON_A_GPU = 4096  # pairs at once, always so many: the order of a GPU's sums depends on how many rows there are
LOWEST = torch.iinfo(torch.int64).min
_LENGTHS = WeakTensorKeyDictionary()  # features -> (their version, their greatest length)


@dataclass(frozen=True)
class Cosine:
    """queries [Q, E] and gallery [G, E], unit features."""

    queries: torch.Tensor
    gallery: torch.Tensor

    def exact(self, chunk: slice, row: torch.Tensor, column: torch.Tensor, rough: torch.Tensor | None) -> torch.Tensor:
        """Scores [n] float32 of the pairs queries[chunk][row], gallery[column]; rough: what `rough` gave for them."""
        return exact(self.queries[chunk], row, self.gallery, column)

    def rough(self, chunk: slice, piece: slice, out: torch.Tensor) -> None:
        """Fills out [g, q] with scores that are off by at most `slack`, from float32 products.

        On a CPU's threads by NumPy's OpenBLAS: torch's MKL takes a quarter longer on AMD's. It takes all cores, so
        one thread that torch is held to stays torch's.
        """
        gallery, queries = self.gallery[piece], self.queries[chunk].T
        if out.device.type == "cpu" and torch.get_num_threads() > 1:
            np.matmul(gallery.numpy(), queries.numpy(), out=out.numpy())
            return
        with true_float32(out.device):
            torch.mm(gallery, queries, out=out)

    @cached_property
    def longest(self) -> float:
        """The product of the greatest lengths. Raises ValueError for a feature that is not finite."""
        return greatest_length(self.queries) * greatest_length(self.gallery)

    @property
    def slack(self) -> float:
        """Largest difference of a float32 product to the exact similarity, with room for the comparison's rounding."""
        return 1.01 * (self.gallery.shape[1] + 8) * 2.0**-24 * self.longest


@dataclass(frozen=True)
class Product:
    """The product of two similarities, each counting 0 where it is below."""

    first: Cosine
    second: Cosine

    def exact(self, chunk: slice, row: torch.Tensor, column: torch.Tensor, rough: torch.Tensor | None) -> torch.Tensor:
        values = torch.zeros(len(row), device=row.device)
        todo = slice(None) if rough is None else (rough >= 0).nonzero()[:, 0]
        row, column = row[todo], column[todo]
        factors = [_sums(x.queries[chunk], row, x.gallery, column).clamp_(min=0) for x in (self.first, self.second)]
        values[todo] = (factors[0] * factors[1]).float()
        return values

    def rough(self, chunk: slice, piece: slice, out: torch.Tensor) -> None:
        """What is certainly 0 is told by a negative score, so that it need not be computed again."""
        other = torch.empty_like(out)
        self.first.rough(chunk, piece, out)
        self.second.rough(chunk, piece, other)
        nothing = (out < -self.first.slack).logical_or_(other < -self.second.slack)
        out.clamp_(min=0).mul_(other.clamp_(min=0)).masked_fill_(nothing, -self.slack / 2)

    @cached_property
    def slack(self) -> float:
        one, other = self.first, self.second
        return 1.01 * (one.longest * other.slack + other.longest * one.slack + one.slack * other.slack)


def greatest_length(features: torch.Tensor) -> float:
    """The longest row's length, remembered while the tensor is as it was: a gallery is ranked many times.

    Changes that torch does not see, through NumPy, are not noticed. Raises ValueError for a feature that is not finite.
    """
    version = None if features.is_inference() else features._version
    if version is None or _LENGTHS.get(features, (None,))[0] != version:
        length = torch.linalg.vector_norm(features, dim=1).amax().item() if len(features) else 1.0
        if not math.isfinite(length):
            raise ValueError("a feature is not finite (NaN or infinite); evaluate with --precision fp32")
        _LENGTHS[features] = version, length
    return _LENGTHS[features][1]


def exact(queries: torch.Tensor, row: torch.Tensor, gallery: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Similarities [n] float32 of the pairs queries[row], gallery[column], summed in float64 one pair at a time."""
    return _sums(queries, row, gallery, column).float()


def _sums(queries: torch.Tensor, row: torch.Tensor, gallery: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    values, wide = torch.empty(len(row), dtype=torch.float64, device=queries.device), queries.double()
    on_gpu = values.device.type != "cpu"
    step = ON_A_GPU if on_gpu else EXACT_PAIRS
    for start in range(0, len(row), step):
        part = slice(start, min(start + step, len(row)))
        products = gallery[column[part]].double().mul_(wide[row[part]])
        if on_gpu and len(products) < step:
            products = pad(products, (0, 0, 0, step - len(products)))
        values[part] = products.sum(1)[: part.stop - start]
    return values


def places(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of the true entries of a matrix, ordered by row."""
    turned = mask.T.contiguous()  # as `_rough` makes them: nothing is copied
    if turned.device.type == "cpu":  # NumPy passes over false ones eight at a time, torch one by one
        flat = torch.from_numpy(np.flatnonzero(turned.numpy()))
    else:
        flat = turned.flatten().nonzero()[:, 0]
    column, row = flat // turned.shape[1], flat % turned.shape[1]
    order = row.argsort(stable=True)
    return row[order], column[order]


def sort_keys(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Integers that sort as (float32 value, then the lower index): the value's ordered bits, the index backwards.

    A partial sort of them is exact at the cut-off too.
    """
    bits = (values + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(torch.int64)
    return (ordered << 32) | (0xFFFFFFFF - indices)


def value_of(keys: torch.Tensor) -> torch.Tensor:
    """Values of `sort_keys`; REMOVED for LOWEST."""
    ordered = (keys >> 32).to(torch.int32)
    bits = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF)
    return torch.where(keys == LOWEST, REMOVED, bits.view(torch.float32))


def index_of(keys: torch.Tensor) -> torch.Tensor:
    return 0xFFFFFFFF - (keys & 0xFFFFFFFF)


def padded(row: torch.Tensor, keys: torch.Tensor, rows: int) -> torch.Tensor:
    """Keys [n] of ascending row numbers [n] as a matrix [rows, longest], LOWEST where a row is shorter."""
    counts = torch.bincount(row, minlength=rows)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    matrix = torch.full((rows, int(counts.max()) if len(row) else 0), LOWEST, device=row.device)
    matrix[row, place] = keys
    return matrix


@contextlib.contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """Products without TF32 and autocast, whose errors are larger than the bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
