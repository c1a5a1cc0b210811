"""Ranking: equal to a naive full sort whatever the ties, removals and block sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from context_i2w.ranking import similarity
from context_i2w.ranking.exact import REMOVED, Ranking, top_indices


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


def naive_order(row: torch.Tensor) -> list[int]:
    """Independent definition: sort all indices by (-similarity, index), removed ones left out."""
    return sorted((i for i in range(len(row)) if row[i] > REMOVED), key=lambda i: (-row[i].item(), i))


@st.composite
def similarity_rows(draw):
    queries, gallery = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    values = st.sampled_from([-1.0, -0.25, -0.0, 0.0, 0.25, 0.5, REMOVED])  # few values: many ties
    rows = draw(st.lists(st.lists(values, min_size=gallery, max_size=gallery), min_size=queries, max_size=queries))
    return torch.tensor(rows)


@settings(max_examples=200, deadline=None)
@given(similarity_rows(), st.data())
def test_top_indices_equal_a_full_sort(rows, data):
    count = data.draw(st.integers(1, rows.shape[1]))
    for row, best in zip(rows, top_indices(rows, count), strict=True):
        assert best.tolist() == (naive_order(row) + [-1] * count)[:count]


@settings(max_examples=100, deadline=None)
@given(
    queries=st.integers(1, 6),
    gallery=st.integers(1, 400),
    width=st.sampled_from([1, 3, 64]),
    spread=st.sampled_from(
        [0.0, 1e-7, 1e-5, 1e-3, 4e-3, 1.0]
    ),  # near-ties within, around and far above float32's error
    memory=st.sampled_from([64, 4096, 1 << 20]),
    removal=st.booleans(),
    restricted=st.sampled_from(["", "lists", "ranges"]),
    product=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_rankings_equal_a_full_sort_in_float64(
    device, queries, gallery, width, spread, memory, removal, restricted, product, seed
):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    pick = lambda high, *shape: torch.randint(high, shape, generator=generator)  # noqa: E731
    unit = torch.nn.functional.normalize(draw(1, width) + spread * draw(queries + gallery, width), dim=1)
    unit[queries + pick(gallery, gallery // 2)] = unit[queries + pick(gallery, gallery // 2)]  # the same image again
    excluded = pick(gallery + 1, queries) - 1 if removal else None
    candidates = None
    if restricted:  # ranges of two kinds, side by side or not
        ranges = range(gallery // 2), range(gallery // 3, gallery)
        kept = lambda: pick(gallery, 7).tolist() if restricted == "lists" else ranges[pick(2, 1)]  # noqa: E731
        candidates = [kept() for _ in range(queries)]
    second = None
    rows = similarities(unit[:queries], unit[queries:])
    if product:
        asked = torch.nn.functional.normalize(unit[:queries] + spread * draw(queries, width), dim=1)
        second = asked, unit[queries:]
        factors = [(x.double() @ unit[queries:].double().T).clamp(min=0) for x in (unit[:queries], asked)]
        rows = (factors[0] * factors[1]).float()
        second = tuple(features.to(device) for features in second)
    unit = unit.to(device)
    ranking = Ranking(unit[:queries], unit[queries:], excluded, candidates, memory, second)
    if restricted:
        removed = torch.ones_like(rows, dtype=torch.bool)
        for row, kept in zip(removed, candidates, strict=True):
            row[list(kept)] = False
        rows[removed] = REMOVED
    if removal:
        has = excluded >= 0
        rows[has.nonzero()[:, 0], excluded[has]] = REMOVED
    orders = [naive_order(row) for row in rows]
    for count in (gallery, 10, 1):  # each in its own ranking: a longer list is kept and cut
        top = Ranking(unit[:queries], unit[queries:], excluded, candidates, memory, second).top(count)
        count = min(count, gallery)
        assert top.tolist() == [(order + [-1] * count)[:count] for order in orders]
    targets = pick(gallery, queries)
    wanted = [order.index(t) + 1 if t in order else len(order) + 1 for order, t in zip(orders, targets.tolist())]
    assert ranking.ranks(targets).tolist() == wanted
    positives = [sorted(set(pick(gallery, int(pick(6, 1))).tolist()) & set(order)) for order in orders]
    ranks = [sorted(order.index(i) + 1 for i in row) for order, row in zip(orders, positives, strict=True)]
    longest = max(map(len, ranks))
    assert ranking.ranks_of(positives).tolist() == [row + [0] * (longest - len(row)) for row in ranks]


def test_products_of_opposite_vectors_tie_at_nothing():
    gallery = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    ranking = Ranking(gallery[1:2], gallery, second=(gallery[2:3], gallery))
    assert ranking.top(4).tolist() == [[3, 0, 1, 2]]
    assert ranking.ranks_of([[2, 3]]).tolist() == [[1, 4]]
    assert ranking.reversed().top(1).tolist() == [[0]] * 4


def test_identical_images_tie_wherever_they_stand(device):
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(97, 129, generator=generator), dim=1)
    gallery = torch.cat([unit[3:4], unit, unit[3:4]])
    rows = similarities(unit, gallery, memory=4096)
    assert torch.equal(rows[:, 0], rows[:, 4])
    assert torch.equal(rows[:, 0], rows[:, -1])
    assert Ranking(unit[3:4].to(device), gallery.to(device)).top(3).tolist() == [[0, 4, 98]]


def test_exact_similarities_do_not_depend_on_how_many_are_asked_for(device):
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(9000, 96, generator=generator), dim=1).to(device)
    everything = torch.arange(len(unit), device=device)
    asked = torch.zeros_like(everything)
    whole = similarity.exact(unit[:1], asked, unit, everything)
    assert torch.equal(whole.cpu(), (unit.cpu().double() @ unit[0].cpu().double()).float())
    for part in everything.split([1, 7, 992, 8000]):
        assert torch.equal(similarity.exact(unit[:1], asked[: len(part)], unit, part), whole[part])


def test_ties_do_not_favour_the_target():
    gallery = torch.eye(2)[[0, 0, 0, 0]]  # everything ties
    ranking = Ranking(torch.eye(2)[[0, 0, 0, 0]], gallery)
    assert ranking.ranks(torch.arange(4)).tolist() == [1, 2, 3, 4]


def test_excluded_reference_is_neither_found_nor_counted():
    gallery = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=1)
    ranking = Ranking(gallery[:1].repeat(2, 1), gallery, excluded=torch.tensor([0, -1]))
    assert ranking.top(50).tolist() == [[1, 2, -1], [0, 1, 2]]
    assert ranking.ranks(torch.tensor([2, 2])).tolist() == [2, 3]


def test_candidates_restrict_the_gallery_of_each_query():
    gallery = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=1)
    ranking = Ranking(gallery[:1].repeat(2, 1), gallery).among([[2, 1], [0]])
    assert ranking.top(2).tolist() == [[1, 2], [0, -1]]
    assert ranking.ranks(torch.tensor([2, 0])).tolist() == [2, 1]


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        similarities(torch.tensor([[float("nan")]]), torch.ones(1, 1))


def test_a_shorter_list_is_the_beginning_of_a_longer_one():
    unit = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    ranking = Ranking(unit, unit)
    longest = ranking.top(9)
    assert torch.equal(ranking.top(3), longest[:, :3])
    assert torch.equal(Ranking(unit, unit).top(3), longest[:, :3])
    assert not torch.equal(ranking.among([[0]] * 9).top(3), longest[:, :3])


def test_no_queries():
    ranking = Ranking(torch.empty(0, 4), torch.eye(4))
    assert ranking.top(2).shape == (0, 2)
    assert ranking.ranks(torch.empty(0, dtype=torch.long)).shape == (0,)
