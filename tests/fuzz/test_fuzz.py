"""Broken inputs to every entry point; the long run is `python -m tests.fuzz.run` (CONTRIBUTING.md)."""

import time

import pytest
from tests.fuzz.cases import World
from tests.fuzz.run import drawn, judged

SECONDS = 10  # of the short run, which draws the same cases each time, as far as it gets


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("fuzz"))


def faults(world: World, tmp_path, seed: int, numbers: range, seconds: float) -> list[str]:
    found, end = [], time.monotonic() + seconds
    for number in numbers:
        if time.monotonic() > end:
            break
        folder = tmp_path / str(number)
        folder.mkdir()
        case = drawn(world, seed, number, folder, [])
        wrong, _ = judged(world, case, folder)
        if wrong:
            found.append(f"seed {seed}, case {number}, {case.name}: {wrong}")
    return found


def test_broken_inputs_end_in_one_line_or_well(world, tmp_path):
    assert faults(world, tmp_path, 1, range(40), SECONDS) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_four_hundred_broken_inputs_of_each_seed(world, tmp_path, seed):
    assert faults(world, tmp_path, seed, range(400), 3600) == []
