"""Ranking: equal to a naive full sort whatever the ties, removals and block sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from context_i2w.retrieval import Ranking, ranks_of, similarities, top_indices


def naive_order(row: torch.Tensor) -> list[int]:
    """Independent definition: sort all indices by (-similarity, index), removed ones left out."""
    return sorted((i for i in range(len(row)) if row[i] > float("-inf")), key=lambda i: (-row[i].item(), i))


@st.composite
def similarity_rows(draw):
    queries, gallery = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    values = st.sampled_from([-1.0, -0.25, -0.0, 0.0, 0.25, 0.5, float("-inf")])  # few values: many ties
    rows = draw(st.lists(st.lists(values, min_size=gallery, max_size=gallery), min_size=queries, max_size=queries))
    return torch.tensor(rows)


@settings(max_examples=200, deadline=None)
@given(similarity_rows(), st.data())
def test_top_and_ranks_equal_a_full_sort(rows, data):
    count = data.draw(st.integers(1, rows.shape[1]))
    targets = torch.tensor([data.draw(st.integers(0, rows.shape[1] - 1)) for _ in rows])
    top, ranks = top_indices(rows, count), ranks_of(rows, targets)
    for row, best, target, rank in zip(rows, top, targets, ranks, strict=True):
        order = naive_order(row)
        assert best.tolist() == (order + [-1] * count)[:count] if len(order) < count else order[:count]
        if target in order:
            assert rank == 1 + order.index(target)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(2, 9), st.integers(64, 4096), st.integers(0, 2**31 - 1))
def test_any_memory_bound_gives_the_same_ranking(queries, gallery, memory, seed):
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize(torch.randn(queries + gallery, 5, generator=generator), dim=1)
    unit[-1] = unit[queries]  # two identical gallery images
    excluded = torch.randint(-1, gallery, (queries,), generator=generator)
    whole = Ranking(unit[:queries], unit[queries:], excluded)
    pieces = Ranking(unit[:queries], unit[queries:], excluded, memory=memory)
    assert torch.equal(whole.top(gallery), pieces.top(gallery))
    for target in range(gallery):
        targets = torch.full((queries,), target)
        assert torch.equal(whole.ranks(targets), pieces.ranks(targets))


def test_identical_images_tie_wherever_they_stand():
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(97, 129, generator=generator), dim=1)
    gallery = torch.cat([unit[3:4], unit, unit[3:4]])
    rows = similarities(unit, gallery, memory=4096)
    assert torch.equal(rows[:, 0], rows[:, 4])
    assert torch.equal(rows[:, 0], rows[:, -1])
    assert Ranking(unit[3:4], gallery).top(3).tolist() == [[0, 4, 98]]


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
