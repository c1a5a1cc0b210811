"""Ranking a gallery for each query by cosine similarity, exactly and in bounded memory.

The order is fixed: higher similarity first, equal similarities by gallery index, in the top list and in the
ranks alike, so that ties never favour the target. Products are summed in float64 and rounded to float32:
the same pair of vectors then has the same similarity wherever it stands in a block, so identical gallery
images tie exactly and the order does not depend on how the work is cut up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

REMOVED = float("-inf")  # similarity of a gallery image that a query must not find


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
            tops = [top_indices(rows, count).cpu() for _, rows in self._blocks()]
            self._longest_top[:] = [torch.cat(tops) if tops else torch.empty(0, count, dtype=torch.int64)]
        return self._longest_top[0][:, :count]

    def ranks(self, targets: torch.Tensor) -> torch.Tensor:
        """Rank of the target index of each query, [Q] int64, 1 the best; found by counting, not sorting."""
        ranks = [ranks_of(rows, targets[chunk].to(rows.device)).cpu() for chunk, rows in self._blocks()]
        return torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.int64)

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Slices of the queries with their similarities to the whole gallery, [q, G] float32."""
        # Ranking works on about 32 bytes per similarity: float32, comparison keys, the float64 product.
        step = max(1, self.memory // (32 * max(1, len(self.gallery))))
        for start in range(0, len(self.queries), step):
            chunk = slice(start, min(start + step, len(self.queries)))
            rows = similarities(self.queries[chunk], self.gallery, self.memory)
            self._remove(rows, chunk)
            yield chunk, rows

    def _remove(self, rows: torch.Tensor, chunk: slice) -> None:
        if self.excluded is not None:
            excluded = self.excluded[chunk].to(rows.device)
            has = excluded >= 0
            rows[has.nonzero()[:, 0], excluded[has]] = REMOVED
        if self.candidates is not None:
            keep = torch.zeros(rows.shape, dtype=torch.bool)
            for row, candidates in enumerate(self.candidates[chunk]):
                keep[row, list(candidates)] = True
            rows.masked_fill_(~keep.to(rows.device), REMOVED)


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
    """Indices of the `count` largest values of each row, equal values by index; -1 for removed entries.

    Each value and its index become one integer that sorts in exactly that order, so that a partial sort is
    exact at the cut-off too.
    """
    bits = (rows + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(torch.int64)
    backwards = torch.arange(rows.shape[1] - 1, -1, -1, device=rows.device)
    best = torch.topk((ordered << 32) | backwards, count, dim=1).values
    indices = rows.shape[1] - 1 - (best & 0xFFFFFFFF)
    return torch.where(rows.gather(1, indices) == REMOVED, -1, indices)


def ranks_of(rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 + how many entries of each row come before the target's, in the order of `top_indices`."""
    targets = targets[:, None]
    value = rows.gather(1, targets)
    earlier = torch.arange(rows.shape[1], device=rows.device)[None] < targets
    return 1 + ((rows > value) | ((rows == value) & earlier)).sum(1)
