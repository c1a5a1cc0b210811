"""Ranking a gallery for each query by cosine similarity, exactly and in bounded memory.

The order is fixed: higher similarity first, equal similarities by gallery index, in the top list and in the
ranks alike, so that ties never favour the target. A similarity is the product summed in float64 and rounded to
float32: the same pair of vectors then has the same similarity wherever it stands in a block, so identical gallery
images tie exactly and the order does not depend on how the work is cut up.

It costs no more than float32: a float32 product is off by at most E·2⁻²⁴ times the two lengths, whatever the order
of its summation, so only images nearer than that to what decides (the k-th best, the target) are computed again.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

REMOVED = float("-inf")  # similarity of a gallery image that a query must not find
QUERIES = 256  # at once: enough for a matrix product at full speed
CACHED = 1 << 22  # bytes of similarities at once on a CPU, so that they stay in its cache
EXACT_PAIRS = 512  # at once in float64, so that they stay in the processor's cache
LOWEST = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Ranking:
    """The gallery as ranked by every query; nothing is computed before a method asks for it.

    queries [Q, E] and gallery [G, E]: unit features, float32. excluded [Q]: gallery index that is removed
    from that query's ranking, -1 for none. candidates: per query the only gallery indices that are ranked.
    memory: bytes that the similarities of one block of queries may take.
    """

    queries: torch.Tensor
    gallery: torch.Tensor
    excluded: torch.Tensor | None = None
    candidates: Sequence[Sequence[int]] | None = None
    memory: int = 1 << 28
    _longest_top: list[torch.Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def among(self, candidates: Sequence[Sequence[int]]) -> Ranking:
        """The same queries over a gallery of their own each (indices into this gallery)."""
        return replace(self, candidates=candidates)

    def reversed(self) -> Ranking:
        """Gallery images as queries, queries as the gallery."""
        return Ranking(self.gallery, self.queries, memory=self.memory)

    def top(self, count: int) -> torch.Tensor:
        """The best gallery indices of each query in order, [Q, min(count, G)] int64; -1: none is left."""
        count = min(count, len(self.gallery))
        if not self._longest_top or self._longest_top[0].shape[1] < count:  # a shorter list is its beginning
            find = self._top_all if self.candidates is None else self._top_among
            tops = [find(chunk, count).cpu() for chunk in self._chunks()] if count else []
            self._longest_top[:] = [torch.cat(tops) if tops else torch.empty(len(self.queries), count).long()]
        return self._longest_top[0][:, :count]

    def ranks(self, targets: torch.Tensor) -> torch.Tensor:
        """Rank of the target index of each query, [Q] int64, 1 the best; found by counting, not sorting.

        A target that is removed from its query's ranking comes after all that remain.
        """
        count = self._ahead_all if self.candidates is None else self._ahead_among
        ahead = [count(chunk, targets[chunk]).cpu() for chunk in self._chunks()]
        return 1 + torch.cat(ahead) if ahead else torch.empty(0, dtype=torch.int64)

    def _top_all(self, chunk: slice, count: int) -> torch.Tensor:
        queries, gallery = self._features
        best = torch.full((len(queries[chunk]), count), LOWEST, device=queries.device)
        for start, rows in self._rough(chunk):
            row, column = _promising(rows, _value_of(best[:, -1]), self._slack, count)
            column += start
            again = exact(queries[chunk], row, gallery, column)
            found = _padded(row, sort_keys(again, column), len(best))
            best = torch.cat([best, found], dim=1).topk(count, dim=1).values
        return torch.where(_value_of(best) > REMOVED, _index_of(best), -1)

    def _ahead_all(self, chunk: slice, targets: torch.Tensor) -> torch.Tensor:
        """How many gallery images come before each target."""
        queries, gallery = self._features
        targets = targets.to(queries.device)
        value = exact(queries[chunk], torch.arange(len(targets), device=targets.device), gallery, targets)
        if self.excluded is not None:
            value[targets == self.excluded[chunk].to(targets.device)] = REMOVED
        ahead = torch.zeros_like(targets)
        low, high = (value - self._slack)[:, None], (value + self._slack)[:, None]
        low[value == REMOVED] = torch.inf  # all that remain are above, none is near
        for start, rows in self._rough(chunk):
            row, column = places((rows >= low).logical_and_(rows <= high))
            column += start
            again = exact(queries[chunk], row, gallery, column)
            before = sort_keys(again, column) > sort_keys(value, targets)[row]
            ahead += torch.bincount(row[before], minlength=len(ahead))
            ahead += rows.gt_(high).sum(1).long()  # ones in float32 add up faster than booleans, exactly up to 2²⁴
        return ahead

    def _top_among(self, chunk: slice, count: int) -> torch.Tensor:
        row, column, value = self._candidates_of(chunk)
        keys = _padded(row, sort_keys(value, column), len(self.queries[chunk]))
        best = torch.nn.functional.pad(keys, (0, count), value=LOWEST).topk(count, dim=1).values
        return torch.where(_value_of(best) > REMOVED, _index_of(best), -1)

    def _ahead_among(self, chunk: slice, targets: torch.Tensor) -> torch.Tensor:
        row, column, value = self._candidates_of(chunk)
        keys, targets = sort_keys(value, column), targets.to(row.device)
        target_keys = torch.full_like(targets, LOWEST)
        is_target = column == targets[row]
        target_keys[row[is_target]] = keys[is_target]
        return torch.bincount(row[keys > target_keys[row]], minlength=len(targets))

    def _candidates_of(self, chunk: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(query of the chunk, gallery index, similarity) of every image that is ranked, ordered by query."""
        queries, gallery = self._features
        excluded = self.excluded[chunk].tolist() if self.excluded is not None else [-1] * len(queries[chunk])
        kept = [
            [index for index in dict.fromkeys(row) if index != removed]
            for row, removed in zip(self.candidates[chunk], excluded, strict=True)
        ]
        row = torch.tensor([number for number, row in enumerate(kept) for _ in row], dtype=torch.int64)
        column = torch.tensor([index for row in kept for index in row], dtype=torch.int64)
        row, column = row.to(queries.device), column.to(queries.device)
        return row, column, exact(queries[chunk], row, gallery, column)

    def _chunks(self) -> list[slice]:
        return [slice(start, start + QUERIES) for start in range(0, len(self.queries), QUERIES)]

    def _rough(self, chunk: slice) -> Iterator[tuple[int, torch.Tensor]]:
        """Float32 similarities [q, g] of the chunk's queries to a piece of the gallery, and where the piece starts.

        All pieces are written to the same memory: asking the system for new pages costs more than comparing. They
        are the transpose of a product with the gallery on the left, which is a quarter faster on a CPU.
        """
        queries, gallery = self._features[0][chunk], self._features[1]
        step = max(1, self.memory // (8 * max(1, len(queries))))  # a similarity and two comparisons of it
        if queries.device.type == "cpu":
            step = min(step, CACHED // (4 * max(1, len(queries))))
        held = torch.empty(len(queries) * min(step, len(gallery)), device=queries.device)
        for start in range(0, len(gallery), step):
            piece = gallery[start : start + step]
            product = held[: len(queries) * len(piece)].view(len(piece), len(queries))
            with _true_float32(queries.device):
                torch.mm(piece, queries.T, out=product)
            rows = product.T
            if self.excluded is not None:
                column = self.excluded[chunk].to(rows.device) - start
                inside = (column >= 0) & (column < rows.shape[1])
                rows[inside.nonzero()[:, 0], column[inside]] = REMOVED
            yield start, rows

    @functools.cached_property
    def _features(self) -> tuple[torch.Tensor, torch.Tensor]:
        move = self.queries.device.type == "mps"  # no float64 there
        return tuple(x.float().cpu() if move else x.float() for x in (self.queries, self.gallery))

    @functools.cached_property
    def _slack(self) -> float:
        """Largest difference of a float32 product to the exact similarity, with room for the comparison's rounding.

        Raises ValueError for a feature that is not finite: a NaN would rank nowhere and everywhere.
        """
        longest = [torch.linalg.vector_norm(x, dim=1).amax().item() for x in self._features if len(x)]
        if not all(map(math.isfinite, longest)):
            raise ValueError("a feature is not finite (NaN or infinite); evaluate with --precision fp32")
        size = longest[0] * longest[-1] if len(longest) == 2 else 1.0
        return 1.01 * (self.gallery.shape[1] + 8) * 2.0**-24 * size


def exact(queries: torch.Tensor, row: torch.Tensor, gallery: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Similarities [n] float32 of the pairs queries[row], gallery[column], summed in float64 one pair at a time."""
    values, wide = torch.empty(len(row), device=queries.device), queries.double()
    for start in range(0, len(row), EXACT_PAIRS):
        part = slice(start, start + EXACT_PAIRS)
        values[part] = gallery[column[part]].double().mul_(wide[row[part]]).sum(1)
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


def similarities(queries: torch.Tensor, gallery: torch.Tensor, memory: int = 1 << 28) -> torch.Tensor:
    """Cosine similarities [q, G] float32 of unit features; the float64 copy of the gallery is made in pieces.

    Raises ValueError for a feature that is not finite: a NaN would rank nowhere and everywhere.
    """
    if not (torch.isfinite(queries).all() and torch.isfinite(gallery).all()):
        raise ValueError("a feature is not finite (NaN or infinite); evaluate with --precision fp32")
    if queries.device.type == "mps":  # no float64 there
        queries, gallery = queries.cpu(), gallery.cpu()
    rows = torch.empty(len(queries), len(gallery), dtype=torch.float32, device=queries.device)
    wide = queries.double()
    step = max(1, memory // (8 * max(1, gallery.shape[1] + len(queries))))
    for start in range(0, len(gallery), step):
        rows[:, start : start + step] = wide @ gallery[start : start + step].double().T
    return rows


def top_indices(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` largest values of each row, equal values by index; -1 for removed entries."""
    keys = sort_keys(rows, torch.arange(rows.shape[1], device=rows.device))
    best = torch.topk(keys, count, dim=1).values
    return torch.where(_value_of(best) > REMOVED, _index_of(best), -1)


def sort_keys(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Integers that sort as (float32 value, then the lower index): the value's ordered bits, the index backwards.

    A partial sort of them is exact at the cut-off too.
    """
    bits = (values + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(torch.int64)
    return (ordered << 32) | (0xFFFFFFFF - indices)


def _value_of(keys: torch.Tensor) -> torch.Tensor:
    """Values of `sort_keys`; REMOVED for LOWEST."""
    ordered = (keys >> 32).to(torch.int32)
    bits = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF)
    return torch.where(keys == LOWEST, REMOVED, bits.view(torch.float32))


def _index_of(keys: torch.Tensor) -> torch.Tensor:
    return 0xFFFFFFFF - (keys & 0xFFFFFFFF)


def _promising(rows: torch.Tensor, best: torch.Tensor, slack: float, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of the rough similarities that may belong to the `count` best, given the count-th best so far [q].

    Where these are many, as in the first piece, only those are kept that may belong to the piece's own best.
    """
    floor = (best - slack).clamp(min=torch.finfo(rows.dtype).min)  # above what is removed
    promising = rows >= floor[:, None]
    if torch.count_nonzero(promising) <= 2 * count * len(rows):
        return places(promising)
    reached = _reached(rows, count) - 2 * slack
    return places(rows >= torch.maximum(floor, reached)[:, None])


def _reached(rows: torch.Tensor, count: int) -> torch.Tensor:
    """A value [q] that at least `count` entries of each row reach, near the count-th best; REMOVED if there are fewer.

    The count-th of the maxima of groups of neighbours: far fewer numbers to sort.
    """
    if rows.shape[1] < count:
        return rows.new_full((len(rows),), REMOVED)
    group = min(64, max(1, rows.shape[1] // (8 * count)))
    groups = rows.shape[1] // group
    return rows[:, : groups * group].unflatten(1, (groups, group)).amax(2).topk(count, dim=1).values[:, -1]


def _padded(row: torch.Tensor, keys: torch.Tensor, rows: int) -> torch.Tensor:
    """Keys [n] of ascending row numbers [n] as a matrix [rows, longest], LOWEST where a row is shorter."""
    counts = torch.bincount(row, minlength=rows)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    matrix = torch.full((rows, int(counts.max()) if len(row) else 0), LOWEST, device=row.device)
    matrix[row, place] = keys
    return matrix


@contextlib.contextmanager
def _true_float32(device: torch.device) -> Iterator[None]:
    """Products without TF32 and autocast, whose errors are larger than the bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
