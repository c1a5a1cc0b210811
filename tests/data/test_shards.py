"""Shards: every sample once, an order that nothing but the seed changes, faults counted, streams and sizes."""

import contextlib
import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.made_pairs import sample, ten_faults, write_shard, write_shards

from context_i2w.data.augmentation import TrainPreparation
from context_i2w.data.options import ViewOptions
from context_i2w.data.shard_files import (
    QuickHeader,
    expand_shards,
    is_shards,
    open_shard,
    read_member,
    read_samples,
    shard_sizes,
)
from context_i2w.data.shard_plan import ShardPlan
from context_i2w.data.shards import ShardOptions, ShardSource
from context_i2w.distributed import Process
from context_i2w.errors import UserError
from context_i2w.model.images import Preparation
from context_i2w.model.prompts import Tokenizer

PREPARATION = Preparation(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TOKENIZER = Tokenizer(77)
CASES = Path(__file__).parent / "cases"


def source(data, batch_size, rank=0, world=1, workers=0, crop=True, view=None, **options) -> ShardSource:
    prepare = TrainPreparation(PREPARATION, crop, view)
    options = ShardOptions(**{"shuffle": 16, **options})
    return ShardSource(data, "masked_title", prepare, TOKENIZER, batch_size, 0, Process(rank, world), workers, options)


def same(a, b) -> bool:
    return torch.equal(a.condition_ids, b.condition_ids) and torch.equal(a.images, b.images) and a.broken == b.broken


def rows(batch) -> list[bytes]:
    return [row.numpy().tobytes() for row in batch.condition_ids]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 24), st.integers(1, 40), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_plan_uses_every_sample_at_most_once_and_all_but_a_partial_batch(sizes, batch, shuffle, epoch):
    plan = ShardPlan(tuple(sizes), batch, 1, shuffle)
    used = Counter()
    for lane in range(plan.lanes):
        slots = 0
        for block in plan.blocks(epoch, lane):
            places = [(piece.shard, i) for piece in block.pieces for i in range(piece.begin, piece.end)]
            assert sorted(block.order) == list(range(len(places)))
            used.update(places)
            slots += len(places)
        assert slots == plan.batches * plan.rows
    assert plan.lanes * plan.rows == batch
    assert all(count == 1 and place < sizes[shard] for (shard, place), count in used.items())
    assert len(used) == sum(sizes) // batch * batch
    later = list(plan.blocks(epoch, 0))[1:]
    resumed = list(plan.blocks(epoch, 0, 1))
    for a, b in zip(later, resumed, strict=True):
        assert a.pieces == b.pieces
        assert np.array_equal(a.order, b.order)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [7, 13, 5, 11, 9])  # 45 samples


def test_an_epoch_has_every_sample_once_and_epochs_differ(shards):
    epochs = [[row for batch in source(shards, 5).epoch(epoch) for row in rows(batch)] for epoch in (0, 1)]
    assert len(set(epochs[0])) == 45
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]


def test_neither_processes_nor_workers_nor_resuming_change_the_global_batches(shards):
    whole = list(source(shards, 8).epoch(1))
    assert len(whole) == 5
    for world, workers in ((2, 0), (4, 0), (2, 2)):
        parts = [list(source(shards, 8 // world, rank, world, workers).epoch(1, start=2)) for rank in range(world)]
        for number, batch in enumerate(whole[2:]):
            ids = torch.cat([part[number].condition_ids for part in parts])
            images = torch.cat([part[number].images for part in parts])
            assert torch.equal(ids, batch.condition_ids), (world, workers)
            assert torch.equal(images, batch.images), (world, workers)


def test_streams_give_what_files_give(shards):
    piped = "pipe:cat " + shards
    assert is_shards(piped)
    with pytest.raises(UserError, match="give --train-samples"):
        source(piped, 8)
    streamed = source(piped, 9, samples=45)
    assert streamed.batches == 5
    assert sum(batch.size + len(batch.broken) for batch in streamed.epoch(0)) == 45
    one = [s.name for s in read_samples(expand_shards(piped)[1], skip=4)]
    assert one == [s.name for s in read_samples(expand_shards(shards)[1], skip=4)]
    assert len(one) == 9


def test_a_failing_stream_is_tried_again_and_named(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match="pipe:false"):
        source("pipe:false", 4, samples=8)


def test_faults_are_skipped_or_read_and_counted(tmp_path):
    faults = [ten_faults(number) for number in range(20)]
    good = [sample(number) for number in range(100, 112)]
    data = str(write_shard(tmp_path / "0.tar", [members for members, _ in faults] + good))
    batches = list(source(data, 8).epoch(0))
    wanted = Counter(kind for _, kind in faults if kind)
    assert Counter(kind for batch in batches for _, kind in batch.broken) == wanted
    assert [batch.size + len(batch.broken) for batch in batches] == [8] * 4


def test_a_batch_without_one_good_sample_is_empty(tmp_path):
    data = str(write_shard(tmp_path / "0.tar", [ten_faults(1)[0]] * 4))
    for workers in (0, 2):
        (batch,) = source(data, 4, workers=workers).epoch(0)
        assert batch.size == 0
        assert batch.images is None
        assert len(batch.broken) == 4


def test_missing_and_cut_off_samples_are_counted(tmp_path):
    path = write_shard(tmp_path / "00000.tar", [sample(number) for number in range(6)])
    (tmp_path / "sizes.json").write_text(json.dumps({"00000.tar": 8}))
    (batch,) = source(str(path), 8).epoch(0)
    assert Counter(kind for _, kind in batch.broken) == {"missing from its shard": 2}
    (none,) = list(source(str(path), 2, shuffle=1).epoch(0))[3:]  # nothing is left to draw crops for
    assert (none.size, len(none.broken)) == (0, 2)
    path.write_bytes(path.read_bytes()[:4000])
    (batch,) = source(str(path), 8).epoch(0)
    assert batch.size + len(batch.broken) == 8
    assert {kind for _, kind in batch.broken} <= {"missing from its shard", "shard can't be read"}
    assert batch.broken


def test_sizes_come_from_lists_stats_or_counting(tmp_path, shards):
    files = expand_shards(shards)
    assert shard_sizes(files, None) == [7, 13, 5, 11, 9]
    bare = [str(write_shard(tmp_path / f"{n}.tar", [sample(0)] * n)) for n in (2, 3)]
    assert shard_sizes(bare, None, show=False) == [2, 3]
    assert shard_sizes(bare, 7) == [4, 3]
    assert expand_shards(str(tmp_path)) == bare
    (tmp_path / "sizes.json").write_text('{"2.tar": 20, "3.tar": 30}')
    assert shard_sizes(bare, None) == [20, 30]
    with pytest.raises(UserError, match="files say 50"):
        shard_sizes(bare, 7)


def test_sizes_of_the_hubs_ready_made_shards(tmp_path):
    shards = [str(write_shard(tmp_path / name, [sample(0)])) for name in ("c-train-0000.tar", "c-validation-0000.tar")]
    splits = {"train": {"filenames": ["c-train-0000.tar"], "shard_lengths": [5046], "num_samples": 5046}}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    assert shard_sizes(shards[:1], None) == [5046]
    assert shard_sizes(shards, None, show=False) == [1, 1]  # it does not name them all
    (tmp_path / "_info.json").write_text('{"splits": {"train": {"filenames": "c-{0..1}.tar"}}}')
    with pytest.raises(UserError, match=r"_info\.json: .*filenames.*delete it to have samples counted"):
        shard_sizes(shards, None)


@pytest.mark.parametrize(("name", "samples"), [("large_uid", 1), ("long_name", 1), ("appledouble", 2)])
def test_shards_as_people_have_them(name, samples):
    shard = str(CASES / f"shard_{name}.tar")
    found = list(read_samples(shard))
    assert [set(sample.members) for sample in found] == [{"jpg", "json", "txt"}] * samples
    assert shard_sizes([shard], None, show=False) == [samples]


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(
        st.text("aé/.", min_size=1, max_size=150).map("a{}b".format), st.integers(0, 1500), max_size=4
    ),
    kind=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    time=st.sampled_from([0, 1.5]),  # a fraction asks for a header more
    cut=st.integers(0, 4000),
    shared=st.sampled_from([{}, {"path": "all"}]),  # pax's fields of all members
)
def test_quick_headers_say_what_tarfile_says(tmp_path_factory, files, kind, time, cut, shared):
    path = tmp_path_factory.getbasetemp() / "headers.tar"
    with tarfile.open(path, "w", format=kind, pax_headers=shared) as archive:
        for name, size in files.items():
            header = tarfile.TarInfo(name)
            header.size, header.mtime = size, time
            with contextlib.suppress(ValueError):  # USTAR has no room for the longest names
                archive.addfile(header, io.BytesIO(b"x" * size))
    path.write_bytes(path.read_bytes()[: -cut or None])

    def read(kind: type[tarfile.TarInfo]) -> list[tuple[str, bytes]]:
        found = []
        with contextlib.suppress(tarfile.TarError, EOFError), open_shard(str(path), kind) as archive:
            found += ((header.name, read_member(archive, header)) for header in archive)
        return found

    assert read(QuickHeader) == read(tarfile.TarInfo)


def test_zipped_shards_are_read(tmp_path):
    plain = write_shard(tmp_path / "0.tar", [sample(n) for n in range(4)])
    zipped = tmp_path / "1.tar.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert is_shards(str(zipped))
    assert list(read_samples(str(zipped), 1)) == list(read_samples(str(plain), 1))
    (batch,) = source(str(zipped), 4).epoch(0)
    assert batch.size == 4


def test_shards_sorted_by_kind_are_named(tmp_path):
    samples = [sample(n) for n in range(30)]
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for ending in ("jpg", "json"):
            for number, members in enumerate(samples):
                header = tarfile.TarInfo(f"{number}.{ending}")
                header.size = len(members[ending])
                archive.addfile(header, io.BytesIO(members[ending]))
    with pytest.raises(UserError, match=r"0\.tar: the files of sample 0 do not stand together"):
        source(str(tmp_path / "0.tar"), 4)


@pytest.mark.parametrize(
    "content", ['{"0.tar": -1}', '{"0.tar": 1e3}', '{"0.tar": true}', '{"0.tar": 1' + "0" * 30 + "}", "[1]", ""]
)
def test_sizes_that_nobody_means(tmp_path, content):
    shard = str(write_shard(tmp_path / "0.tar", [sample(0)]))
    (tmp_path / "sizes.json").write_text(content)
    with pytest.raises(UserError, match=r"sizes\.json: .*delete it to have samples counted"):
        shard_sizes([shard], None)


def test_patterns_that_are_none():
    with pytest.raises(UserError, match="not a pattern of shards"):
        expand_shards("x/{00000.tar")


def test_a_text_member_may_hold_the_masked_caption(tmp_path):
    samples = [{"jpg": sample(n)["jpg"], "masked_title.txt": f"<|replace|> {n}".encode()} for n in range(4)]
    (batch,) = source(str(write_shard(tmp_path / "0.tar", samples)), 4).epoch(0)
    assert batch.size == 4


def test_wrong_use_is_explained(tmp_path, shards):
    with pytest.raises(UserError, match=r"no such shards: .*00005\.tar"):
        source(shards.replace("00004", "00005"), 4)
    with pytest.raises(UserError, match="do not fill one batch of 100"):
        source(shards, 100)
    plain = write_shard(tmp_path / "0.tar", [{"jpg": b"", "json": b'{"caption": "x"}'}])
    with pytest.raises(UserError, match=r"found \.jpg, \.json, caption; add it with"):
        source(str(plain), 1)
    (tmp_path / "1.tar").write_text("no tar")
    with pytest.raises(UserError, match=r"1\.tar"):
        source(str(tmp_path / "1.tar"), 1)


def test_views_of_shards_come_with_their_targets(tmp_path):
    shards = write_shards(tmp_path, [12])
    plain = next(source(shards, 8, crop=False).epoch(0))
    for workers in (0, 2):
        batch = next(source(shards, 8, crop=False, workers=workers, view=ViewOptions(colour=1.0)).epoch(0))
        assert torch.equal(batch.targets, plain.images)
        assert batch.images.shape == batch.targets.shape
        assert not torch.equal(batch.images, batch.targets)
