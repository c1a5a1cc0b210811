"""Intervals and paired tests against independent definitions, and by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from context_i2w.ranking.significance import Scores, bootstrap_interval, holm, paired_difference


def scores(values, units=None) -> Scores:
    values = np.atleast_2d(np.asarray(values, float))
    count = values.shape[1]
    return Scores(values, np.full(count, 1 / count), np.arange(count) if units is None else np.asarray(units))


@given(st.integers(2, 40), st.integers(0, 999))
@settings(deadline=None)
def test_one_seed_and_independent_queries_give_the_paired_t_test(count, seed):
    rng = np.random.default_rng(seed)
    ours, theirs = rng.normal(1, 2, count), rng.normal(0, 3, count)
    found, wanted = paired_difference(scores(ours), scores(theirs)), stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx(wanted.confidence_interval(0.95))


@given(st.integers(2, 10), st.integers(0, 999))
@settings(deadline=None)
def test_queries_that_all_agree_give_the_t_test_over_seeds(seeds, seed):
    rng = np.random.default_rng(seed)
    base, shift = rng.normal(0, 5, (seeds, 7)), rng.normal(0.5, 1, (seeds, 1))
    found, wanted = paired_difference(scores(base + shift), scores(base)), stats.ttest_1samp(shift[:, 0], 0)
    assert found.p == pytest.approx(wanted.pvalue)
    assert found.mean == pytest.approx(shift.mean())


def test_queries_of_one_reference_image_count_as_one():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 1, 30)
    once = paired_difference(scores(values), scores(np.zeros(30)))
    four_times = paired_difference(
        scores(np.repeat(values, 4), np.repeat(np.arange(30), 4)), scores(np.zeros(120), np.repeat(np.arange(30), 4))
    )
    assert four_times.p == pytest.approx(once.p)


def test_a_row_against_itself_is_no_difference():
    same = scores(np.random.default_rng(0).normal(0, 1, (3, 20)))
    found = paired_difference(same, same)
    assert (found.mean, found.p) == (0, 1)


@pytest.mark.parametrize(("seeds", "queries_vary"), [(2, 1), (2, 20), (3, 5), (5, 1), (5, 5), (5, 20)])
def test_chance_is_not_called_a_difference_more_often_than_promised(seeds, queries_vary):
    """3,000 experiments in which there is no difference, with both sources of chance, at two levels."""
    rng = np.random.default_rng(seeds * 100 + queries_vary)
    zero = scores(np.zeros((seeds, 40)))
    p = np.array(
        [
            paired_difference(
                scores(rng.normal(0, 1, (seeds, 1)) + rng.normal(0, queries_vary, (1, 40)) * np.ones((seeds, 1))), zero
            ).p
            for _ in range(3000)
        ]
    )
    assert (p < 0.05).mean() < 0.065
    assert (p < 0.002).mean() < 0.006


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)
    base = rng.normal(50, 20, (5, 400))
    better = base + 3 + rng.normal(0, 0.8, (5, 1)) + rng.normal(0, 5, (5, 400))
    found = paired_difference(scores(better), scores(base))
    assert found.p < 0.01
    assert found.low < 3 < found.high


def test_rows_of_other_queries_cannot_be_paired():
    with pytest.raises(ValueError, match="can't be paired"):
        paired_difference(scores(np.zeros((2, 5))), scores(np.zeros((2, 6))))
    with pytest.raises(ValueError, match="one reference image"):
        paired_difference(scores(np.arange(5.0), np.zeros(5)), scores(np.zeros(5), np.zeros(5)))


def test_the_interval_is_the_normal_one_where_that_holds():
    values = np.random.default_rng(0).normal(30, 10, 1000)
    low, high = bootstrap_interval(scores(values))
    half = 1.96 * values.std() / 1000**0.5
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1)
    assert bootstrap_interval(scores(np.full(50, 7.0))) == (pytest.approx(7), pytest.approx(7))


def test_small_groups_weigh_as_much_as_large_ones():
    """Mean over groups: ten queries of one, thirty of the other."""
    values = np.concatenate([np.full(10, 100.0), np.zeros(30)])
    weights = np.concatenate([np.full(10, 0.5 / 10), np.full(30, 0.5 / 30)])
    assert Scores(values[None], weights, np.arange(40)).mean == pytest.approx(50)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_stepwise_procedure_rejects(p_values):
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected, left = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
        while left and p_values[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected
