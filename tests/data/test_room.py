"""Shared places: what comes through them is what one process makes, whatever is held, left, broken or left open."""

import subprocess
import sys

import pytest
import torch
from tests.made_pairs import write_list, write_shards

from context_i2w.data.augmentation import TrainPreparation
from context_i2w.data.batches import ListSource
from context_i2w.data.options import ShardOptions, ViewOptions
from context_i2w.data.pairs import ImagePairs, read_pair_list
from context_i2w.data.room import Room, RoomShape, joined
from context_i2w.data.shards import ShardSource
from context_i2w.distributed import Process
from context_i2w.errors import UserError
from context_i2w.model.images import Preparation
from context_i2w.model.prompts import Tokenizer

PREPARATION = Preparation(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
KINDS = ["list", "shards"]
VIEW = ViewOptions(crop=0.3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A list and shards of 70 pairs; of the list's images every fifth is missing."""
    folder = tmp_path_factory.mktemp("made")
    path = write_list(folder, 70)
    for row in range(0, 70, 5):
        (folder / "images" / f"{row}.jpg").unlink()
    return read_pair_list(path), write_shards(folder, [30, 40])


def source(made, kind, workers, view=None, device=CPU):
    (pairs, shards), process = made, Process(device=device)
    if kind == "list":
        rows = ImagePairs(pairs, PREPARATION, True, 0, 77, view)
        return ListSource(rows, len(pairs), 7, 0, process, workers)
    prepare = TrainPreparation(PREPARATION, True, view)
    return ShardSource(shards, "masked_title", prepare, Tokenizer(77), 7, 0, process, workers, ShardOptions(shuffle=16))


def same(a, b):
    pairs = [(a.condition_ids, b.condition_ids), (a.images, b.images), (a.targets, b.targets)]
    return a.broken == b.broken and all(one is other is None or torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("view", [None, VIEW])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_one_process_and_are_kept_while_somebody_holds_them(made, kind, workers, view, device):
    wanted = {epoch: list(source(made, kind, 0, view).epoch(epoch)) for epoch in (0, 1)}
    read = source(made, kind, workers, view, device)
    kept = next(read.epoch(1, start=3))  # and the pass is left
    for epoch in (1, 0):
        for batch, other in zip(read.epoch(epoch), wanted[epoch], strict=True):
            assert same(batch, other)
    held = list(read.epoch(0))  # more than there are places
    assert len(held) == 10
    assert all(batch.images.is_pinned() == (device.type == "cuda") for batch in held)
    assert all(map(same, held, wanted[0]))
    assert all(map(same, read.epoch(1), wanted[1]))
    assert all(map(same, held, wanted[0]))
    assert same(kept, wanted[1][3])
    read.close()


@pytest.mark.parametrize("kind", KINDS)
def test_few_places_serve_a_pass_and_their_batches_lie_in_one_piece(made, kind):
    read = source(made, kind, 2)
    seen = [batch.images.untyped_storage().data_ptr() for batch in read.epoch(0)]
    assert len(set(seen)) < len(seen) == 10
    whole = [batch.images for batch in read.epoch(1) if not batch.broken]
    assert all(images.permute(0, 2, 3, 1).is_contiguous() for images in whole)
    read.close()


def test_shards_go_on_after_a_fault(made, monkeypatch):
    """From the very batch after it too: the streams have lost samples by then."""
    read, wanted = source(made, "shards", 0), list(source(made, "shards", 0).epoch(0))
    epoch = read.epoch(0)
    next(epoch)
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "__call__", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(epoch)
    assert all(map(same, read.epoch(0, start=2), wanted[2:]))


def test_places_that_memory_has_no_room_for():
    room = Room(RoomShape(("images",), 1 << 30, 4096), None, 64, [])
    with pytest.raises(UserError, match="lower --workers or --batch-size"):
        iter(room)


def test_parts_that_follow_each_other_are_joined_without_a_copy():
    whole = torch.arange(60).reshape(10, 2, 3)
    for parts, shares in (
        ([whole[:4], whole[4:9]], True),
        ([whole[:4], None, whole[4:]], True),
        ([whole[:4], whole[5:]], False),
        ([whole[:4], whole[4:].clone()], False),
    ):
        there = [part for part in parts if part is not None]
        found = joined(parts)
        assert torch.equal(found, torch.cat(there))
        assert (found.data_ptr() == whole.data_ptr()) == shares
    assert joined([None, None]) is None


def test_a_program_ends_though_it_never_closed_its_readers(tmp_path):
    program = (
        "import sys; from torch.utils.data import Dataset\n"
        "from context_i2w.data.reading import ReadingProcesses\n"
        "class Rows(Dataset):\n"
        "    def __getitem__(self, key): return key\n"
        "kept = ReadingProcesses(Rows(), 2, range(9))\n"
        "assert list(kept) == list(kept) == [*range(9)]\n"
    )
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
