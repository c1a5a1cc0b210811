import os
import random
import sys

import pytest
from tests.crash import disks
from tests.crash.points import KINDS, faults, prepared


@pytest.mark.slow
def test_kill_9_while_files_are_written_changes_no_result(tmp_path):
    world, rng = prepared(tmp_path), random.Random(1)
    assert [found for kind in KINDS for found in faults(world, kind, 13, rng)] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts disks")
def test_full_and_read_only_disks_cost_one_line_and_no_data(tmp_path):
    world = prepared(tmp_path)
    assert [found for check in (disks.full, disks.read_only) for job in disks.JOBS for found in check(world, job)] == []
