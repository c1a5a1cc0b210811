"""Ranking a gallery for each query by cosine similarity, exactly and in bounded memory.

The order is fixed: higher similarity first, equal similarities by gallery index, in the top list and in the
ranks alike, so that ties never favour the target. It costs no more than float32: a float32 product is off by at most
E·2⁻²⁴ times the two lengths, whatever the order of its summation, so only images nearer than that to what decides
(the k-th best, a target) are computed again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch.nn.functional import pad

from context_i2w.ranking.similarity import (
    LOWEST,
    REMOVED,
    Cosine,
    Product,
    index_of,
    padded,
    places,
    sort_keys,
    value_of,
)

QUERIES = 256  # at once: enough for a matrix product at full speed
CACHED = 1 << 24  # bytes of similarities at once on a CPU, so that they stay in its cache
HIGHEST = torch.iinfo(torch.int64).max
LEAST = torch.finfo(torch.float32).min  # above what is removed
GROUP = 64  # images whose best is looked at first
HELD = 4  # times as many images as asked for, before exact scores decide between them


@dataclass(frozen=True)
class Ranking:
    """The gallery as ranked by every query; nothing is computed before a method asks for it.

    queries [Q, E] and gallery [G, E]: unit features, float32. excluded [Q]: gallery index that is removed
    from that query's ranking, -1 for none. candidates: per query the only gallery indices that are ranked; where all
    are ranges, queries side by side of the same range are ranked together, as fast as over a whole gallery.
    memory: bytes that the similarities of one block of queries may take. second: other features [Q, F] and [G, F] of
    the same queries and images; the score is then the product of both similarities, each counting 0 where it is below.
    """

    queries: torch.Tensor
    gallery: torch.Tensor
    excluded: torch.Tensor | None = None
    candidates: Sequence[Sequence[int]] | None = None
    memory: int = 1 << 28
    second: tuple[torch.Tensor, torch.Tensor] | None = None
    _longest_top: list[torch.Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def among(self, candidates: Sequence[Sequence[int]]) -> Ranking:
        """The same queries over a gallery of their own each (indices into this gallery)."""
        return replace(self, candidates=candidates)

    def reversed(self) -> Ranking:
        """Gallery images as queries, queries as the gallery."""
        return Ranking(self.gallery, self.queries, memory=self.memory, second=self.second and self.second[::-1])

    def top(self, count: int) -> torch.Tensor:
        """The best gallery indices of each query in order, [Q, min(count, G)] int64; -1: none is left."""
        count = min(count, len(self.gallery))
        if not self._longest_top or self._longest_top[0].shape[1] < count:  # a shorter list is its beginning
            find = self._top_among if self._listed else self._top_all
            tops = [find(chunk, count).cpu() for chunk in self._chunks()] if count else []
            self._longest_top[:] = [torch.cat(tops) if tops else torch.empty(len(self.queries), count).long()]
        return self._longest_top[0][:, :count]

    def ranks(self, targets: torch.Tensor) -> torch.Tensor:
        """Rank of the target index of each query, [Q] int64, 1 the best; found by counting, not sorting.

        A target that is removed from its query's ranking comes after all that remain.
        """
        count = self._ahead_among if self._listed else self._ahead_all
        ahead = [count(chunk, targets[chunk]).cpu() for chunk in self._chunks()]
        return 1 + torch.cat(ahead) if ahead else torch.empty(0, dtype=torch.int64)

    def ranks_of(self, positives: Sequence[Sequence[int]]) -> torch.Tensor:
        """Ranks of several gallery indices of each query, ascending [Q, longest] int64; 0 where a query has fewer."""
        found = [self._ranks_of(chunk, positives[chunk]).cpu() for chunk in self._chunks()]
        longest = max((part.shape[1] for part in found), default=0)
        parts = [pad(part, (0, longest - part.shape[1])) for part in found]
        return torch.cat(parts) if parts else torch.empty(0, 0, dtype=torch.int64)

    def _top_all(self, chunk: slice, count: int) -> torch.Tensor:
        """Keys are of rough scores, but of exact ones where near ties make them many, and where they decide at last."""
        queries = self._features.queries[chunk]
        held = torch.full((len(queries), count), LOWEST, device=queries.device)
        for start, rows in self._rough(chunk):
            row, column = _promising(rows, value_of(held[:, count - 1]), 2 * self._slack, count)
            if not len(row):
                continue
            found = padded(row, sort_keys(rows[row, column], column + start), len(held))
            held = torch.cat([held, found], dim=1).sort(dim=1, descending=True).values
            if held.shape[1] > HELD * count:
                held = held[:, : max(count, int(self._possible(value_of(held), count).sum(1).max()))]
            if held.shape[1] > HELD * count:
                held = self._decided(chunk, held, count)
        best = self._decided(chunk, held, count)
        return torch.where(value_of(best) > REMOVED, index_of(best), -1)

    def _possible(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """Which of descending scores [q, n >= count] may belong to the `count` best; none that is removed."""
        return values >= (values[:, count - 1, None] - 2 * self._slack).clamp(min=LEAST)

    def _decided(self, chunk: slice, held: torch.Tensor, count: int) -> torch.Tensor:
        """The `count` best of images that are held by descending keys [q, n >= count], in their exact order.

        Scores that lie further from both neighbours than they may be off stay as they are.
        """
        values = value_of(held)
        near = pad(values[:, :-1] - values[:, 1:] <= 2 * self._slack, (1, 1))
        row, place = (self._possible(values, count) & (near[:, :-1] | near[:, 1:])).nonzero(as_tuple=True)
        held = held.index_put((row, place), self._keys(chunk, row, index_of(held[row, place]), values[row, place]))
        return held.topk(count, dim=1).values

    def _ahead_all(self, chunk: slice, targets: torch.Tensor) -> torch.Tensor:
        """How many gallery images come before each target."""
        targets = targets.to(self._features.queries.device)
        target_keys = self._keys(chunk, torch.arange(len(targets), device=targets.device), targets)
        value = value_of(target_keys)
        ahead = torch.zeros_like(targets)
        low, high = (value - self._slack)[:, None], (value + self._slack)[:, None]
        low[value == REMOVED] = torch.inf  # all that remain are above, none is near
        for start, rows in self._rough(chunk):
            row, column = places((rows >= low).logical_and_(rows <= high))
            before = self._keys(chunk, row, column + start, rows[row, column]) > target_keys[row]
            ahead += torch.bincount(row[before], minlength=len(ahead))
            ahead += rows.gt_(high).sum(1).long()  # ones in float32 add up faster than booleans, exactly up to 2²⁴
        return ahead

    def _ranks_of(self, chunk: slice, positives: Sequence[Sequence[int]]) -> torch.Tensor:
        """An image is ahead of the positives whose keys are lower: it is counted by their number, then added up."""
        row, column = self._pairs(positives)
        wanted = padded(row, self._keys(chunk, row, column), len(positives))
        wanted = wanted.masked_fill_(wanted == LOWEST, HIGHEST).sort(1).values
        beaten = wanted.new_zeros(len(wanted), wanted.shape[1] + 1)  # how many images beat so many positives
        if wanted.shape[1]:
            for number in self._beaten(chunk, wanted):
                beaten.scatter_add_(
                    1, number, torch.ones((), dtype=torch.int64, device=number.device).expand_as(number)
                )
        ranks = 1 + beaten[:, 1:].flip(1).cumsum(1).flip(1)
        ranks = ranks.masked_fill_(wanted == HIGHEST, HIGHEST).sort(1).values
        return ranks.masked_fill_(ranks == HIGHEST, 0)

    def _beaten(self, chunk: slice, wanted: torch.Tensor) -> Iterator[torch.Tensor]:
        """How many of the ascending keys [q, P] each image beats; an image may appear again with 0."""
        if self._listed:
            row, column = self._candidates_of(chunk)
            yield torch.searchsorted(wanted, padded(row, self._keys(chunk, row, column), len(wanted)))
            return
        values = value_of(wanted).masked_fill_(wanted == HIGHEST, torch.inf)
        for start, rows in self._rough(chunk):
            low = torch.searchsorted(values, (rows - self._slack).contiguous())
            high = torch.searchsorted(values, (rows + self._slack).contiguous(), right=True)
            near = low != high
            yield low.masked_fill_(near, 0)
            row, column = places(near)
            keys = self._keys(chunk, row, column + start, rows[row, column])
            yield torch.searchsorted(wanted, padded(row, keys, len(wanted)))

    def _top_among(self, chunk: slice, count: int) -> torch.Tensor:
        row, column = self._candidates_of(chunk)
        keys = padded(row, self._keys(chunk, row, column), len(self.queries[chunk]))
        best = pad(keys, (0, count), value=LOWEST).topk(count, dim=1).values
        return torch.where(value_of(best) > REMOVED, index_of(best), -1)

    def _ahead_among(self, chunk: slice, targets: torch.Tensor) -> torch.Tensor:
        row, column = self._candidates_of(chunk)
        keys, targets = self._keys(chunk, row, column), targets.to(row.device)
        target_keys = torch.full_like(targets, LOWEST)
        is_target = column == targets[row]
        target_keys[row[is_target]] = keys[is_target]
        return torch.bincount(row[keys > target_keys[row]], minlength=len(targets))

    def _candidates_of(self, chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """(query of the chunk, gallery index) of every image that is ranked, ordered by query."""
        excluded = self.excluded[chunk].tolist() if self.excluded is not None else [-1] * len(self.queries[chunk])
        assert self.candidates is not None  # it is for `_listed` rankings
        rows = zip(self.candidates[chunk], excluded, strict=True)
        return self._pairs([[index for index in dict.fromkeys(row) if index != removed] for row, removed in rows])

    def _pairs(self, lists: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        row = torch.tensor([number for number, indices in enumerate(lists) for _ in indices], dtype=torch.int64)
        column = torch.tensor([index for indices in lists for index in indices], dtype=torch.int64)
        return row.to(self._features.queries.device), column.to(self._features.queries.device)

    def _keys(
        self,
        chunk: slice,
        row: torch.Tensor,
        column: torch.Tensor,
        known: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Sort keys [n] of the exact scores of (query of the chunk, image); known: their rough scores."""
        values = self._scores.exact(chunk, row, column, known)
        if self.excluded is not None:
            values[column == self.excluded[chunk].to(column.device)[row]] = REMOVED
        if not self._listed:
            span = self._span(chunk)
            values[(column < span.start) | (column >= span.stop)] = REMOVED
        return sort_keys(values, column)

    def _chunks(self) -> list[slice]:
        """Queries that are ranked together: consecutive ones of the same part of the gallery."""
        count, spans = len(self.queries), self.candidates if self.candidates is not None and not self._listed else None
        ends = [i for i in range(1, count) if spans is not None and spans[i] != spans[i - 1]]
        cuts = zip([0, *ends], [*ends, count])
        return [slice(i, min(i + QUERIES, end)) for first, end in cuts for i in range(first, end, QUERIES)]

    def _span(self, chunk: slice) -> range:
        span = range(len(self.gallery)) if self.candidates is None else self.candidates[chunk.start]
        assert isinstance(span, range)  # else the ranking is `_listed`
        return span

    def _rough(self, chunk: slice) -> Iterator[tuple[int, torch.Tensor]]:
        """Float32 scores [q, g] of the chunk's queries to a piece of the gallery, and where the piece starts.

        All pieces are written to the same memory: asking the system for new pages costs more than comparing. They
        are the transpose of a product with the gallery on the left, which is a quarter faster on a CPU.
        """
        queries, device = len(self.queries[chunk]), self._features.queries.device
        span = self._span(chunk)
        step = max(1, self.memory // (8 * max(1, queries)))  # a similarity and two comparisons of it
        if device.type == "cpu":
            step = min(step, CACHED // (4 * max(1, queries)))
        held = torch.empty(queries * min(step, len(span)), device=device)
        for start in range(span.start, span.stop, step):
            end = min(start + step, span.stop)
            product = held[: queries * (end - start)].view(end - start, queries)
            self._scores.rough(chunk, slice(start, end), product)
            rows = product.T
            if self.excluded is not None:
                column = self.excluded[chunk].to(rows.device) - start
                inside = (column >= 0) & (column < rows.shape[1])
                rows[inside.nonzero()[:, 0], column[inside]] = REMOVED
            yield start, rows

    @functools.cached_property
    def _listed(self) -> bool:
        """Whether candidates are lists rather than parts of the gallery."""
        return self.candidates is not None and not all(isinstance(row, range) for row in self.candidates)

    @functools.cached_property
    def _features(self) -> Cosine:
        return _cosine(self.queries, self.gallery)

    @functools.cached_property
    def _scores(self) -> Cosine | Product:
        return self._features if self.second is None else Product(self._features, _cosine(*self.second))

    @functools.cached_property
    def _slack(self) -> float:
        return self._scores.slack


def _cosine(queries: torch.Tensor, gallery: torch.Tensor) -> Cosine:
    move = queries.device.type == "mps"  # no float64 there
    return Cosine(*(x.float().cpu() if move else x.float() for x in (queries, gallery)))


def top_indices(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` largest values of each row, equal values by index; -1 for removed entries."""
    keys = sort_keys(rows, torch.arange(rows.shape[1], device=rows.device))
    best = torch.topk(keys, count, dim=1).values
    return torch.where(value_of(best) > REMOVED, index_of(best), -1)


def _best_of_groups(images: torch.Tensor, group: int) -> torch.Tensor:
    """The greatest of so many neighbours [g / group, q], rounded up."""
    whole = len(images) // group * group
    groups = images[:whole].unflatten(0, (-1, group))
    if groups.device.type == "cpu":  # as the products are: torch's threads and NumPy's would wait for one another
        maxima = torch.from_numpy(groups.numpy().max(1))
    else:
        maxima = groups.amax(1)
    return torch.cat([maxima, images[whole:].amax(0, keepdim=True)]) if whole < len(images) else maxima


def _promising(rows: torch.Tensor, best: torch.Tensor, slack: float, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column), ordered by row, of rough scores that may belong to the `count` best, given the count-th now [q].

    One pass finds the best of each group of images; few groups reach what is held, only these are looked into. Where
    many do, as in the first piece, what `count` groups of the piece reach is asked for as well.
    """
    images, floor = rows.T, (best - slack).clamp(min=LEAST)  # images as they lie in memory
    group = min(GROUP, max(1, len(images) // (2 * count)))
    maxima = _best_of_groups(images, group)
    if len(maxima) >= count and torch.count_nonzero(maxima >= floor) > count * len(rows):
        floor = torch.maximum(floor, maxima.topk(count, dim=0).values[-1] - 2 * slack)
    part, row = (maxima >= floor).nonzero(as_tuple=True)
    column = part[:, None] * group + torch.arange(group, device=part.device)
    reaches = images[column.clamp(max=len(images) - 1), row[:, None]] >= floor[row, None]
    found, place = (reaches & (column < len(images))).nonzero(as_tuple=True)
    row, column = row[found], column[found, place]
    order = row.argsort(stable=True)
    return row[order], column[order]
