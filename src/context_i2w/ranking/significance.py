"""Intervals and paired tests for scores that vary with the seed of the training and with the query.

Two sources of chance: another seed would give another mapper, other queries another score. Queries that share a
reference image are not independent, so the unit that is drawn is the reference image with all its queries. A
difference counts against both sources at once, by Clark's min F′ (1973: "The language-as-fixed-effect fallacy"):

    min F′ = θ² / (V_seeds + V_units),    df = (V_seeds + V_units)² / (V_seeds² / (S − 1) + V_units² / (n − 1))

with θ the mean difference over S seeds, V_seeds the variance of that mean by the differences of single seeds, V_units
by the n units. What seeds and units vary in together counts twice, which is on the safe side. What is not: few seeds
may agree by luck, and the formula then takes the units' many degrees of freedom for its own (with S = 2 it calls
differences far too often). So the difference must also hold in Student's t test over the S seeds alone: p is the larger
of the two, the interval the wider.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from context_i2w.errors import extra

DRAWN = 1 << 22  # numbers of one piece of a bootstrap's draws


@dataclass(frozen=True)
class Scores:
    """One measure of one row: values [S seeds, Q queries] in percent.

    weights [Q]: share of each query in the reported mean, sum 1 (queries of small groups weigh more where groups are
    averaged). units [Q]: number of the reference image.
    """

    values: np.ndarray
    weights: np.ndarray
    units: np.ndarray

    @property
    def by_seed(self) -> np.ndarray:
        """The reported number of each seed [S]."""
        return self.values @ self.weights

    @property
    def mean(self) -> float:
        return float(self.by_seed.mean())


@dataclass(frozen=True)
class Difference:
    """A row minus the row it is compared with, in points; p: two-sided."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_interval(scores: Scores, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the seeds' mean when reference images are drawn again, with replacement."""
    low, high = bootstrap_intervals(
        scores.values.mean(0)[None], scores.weights[None], scores.units, level, draws, seed
    )[0]
    return float(low), float(high)


def bootstrap_intervals(
    values: np.ndarray, weights: np.ndarray, units: np.ndarray, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """Intervals [M, 2] of several weighted means over the same queries, all from the same draws.

    values and weights [M, Q]; units [Q] as in `Scores`. The draws are made in pieces of bounded memory.
    """
    pairs = [_by_unit(*row, units) for row in zip(values, weights, strict=True)]
    sums, shares = (np.stack(parts, axis=1) for parts in zip(*pairs))
    generator, count, means = np.random.default_rng(seed), len(sums), []
    for start in range(0, draws, step := max(1, DRAWN // count)):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=min(step, draws - start)).astype(float)
        with np.errstate(invalid="ignore"):  # a draw without any query that counts
            means.append((drawn @ sums) / (drawn @ shares))
    tail = (1 - level) / 2
    return np.nanquantile(np.concatenate(means), [tail, 1 - tail], axis=0).T


def paired_difference(row: Scores, against: Scores, level: float = 0.95) -> Difference:
    """The same seeds and queries under two rows. With one seed only the queries' variance counts.

    Raises ValueError if seeds or queries differ.
    """
    if row.values.shape != against.values.shape or not np.array_equal(row.units, against.units):
        raise ValueError(f"rows of {row.values.shape} and {against.values.shape} scores can't be paired")
    differences = row.values - against.values
    by_seed = differences @ row.weights
    mean, seeds = float(by_seed.mean()), len(by_seed)
    of_units, units = _variance_by_units(differences.mean(0) - mean, row)
    if seeds == 1:
        return Difference(mean, *_t_test(mean, of_units, units - 1, level))
    of_seeds = float(by_seed.var(ddof=1)) / seeds
    both = of_seeds + of_units
    df = both**2 / (of_seeds**2 / (seeds - 1) + of_units**2 / (units - 1)) if both else 1.0
    lows, highs, ps = zip(_t_test(mean, both, df, level), _t_test(mean, of_seeds, seeds - 1, level), strict=True)
    return Difference(mean, min(lows), max(highs), max(ps))


def _t_test(mean: float, variance: float, df: float, level: float) -> tuple[float, float, float]:
    """Interval and two-sided p-value of a mean that has this variance."""
    if variance == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    with extra("train"):
        from scipy import stats
    half = float(stats.t.ppf((1 + level) / 2, df)) * variance**0.5
    return mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / variance**0.5, df))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm (1979): the chance of one false alarm among them all stays below the level."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, number in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def _by_unit(values: np.ndarray, weights: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums and weights [n] of the reference images."""
    _, place = np.unique(units, return_inverse=True)
    return np.bincount(place, weights * values), np.bincount(place, weights)


def _variance_by_units(residuals: np.ndarray, scores: Scores) -> tuple[float, int]:
    """Variance of a weighted mean whose residuals [Q] are given, and the number of units (cluster-robust)."""
    sums, _ = _by_unit(residuals, scores.weights, scores.units)
    count = len(sums)
    if count < 2:
        raise ValueError("one reference image alone tells nothing about chance")
    return float(np.square(sums).sum()) * count / (count - 1), count
