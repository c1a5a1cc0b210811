import random

import pytest
from tests.crash.points import KINDS, faults, prepared


@pytest.mark.slow
def test_kill_9_while_files_are_written_changes_no_result(tmp_path):
    world, rng = prepared(tmp_path), random.Random(1)
    assert [found for kind in KINDS for found in faults(world, kind, 13, rng)] == []
