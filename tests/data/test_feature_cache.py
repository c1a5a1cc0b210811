"""The feature cache: the same batches as without it within the stated bounds; interruptions, stale keys, breakage."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import relative
from context_i2w.data import record_store
from context_i2w.data.batch import Batch
from context_i2w.data.batches import ListSource
from context_i2w.data.feature_cache import CacheOptions, open_cache
from context_i2w.data.open import check_data
from context_i2w.data.options import DataOptions, ViewOptions
from context_i2w.data.pairs import ImagePairs, read_pair_list
from context_i2w.distributed import Process
from context_i2w.errors import UserError
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.images import Preparation
from context_i2w.model.mappers import ContextI2W
from context_i2w.training.objective import see
from context_i2w.training.optimiser import OptimOptions
from context_i2w.training.trainer import Trainer, TrainOptions

ROWS = [4, 0, 3]


@pytest.fixture
def pairs(tmp_path, golden_clip):
    return make_pairs(tmp_path / "images", golden_clip)


def make_pairs(folder, clip, crop=False, masked="a <|replace|> number {}", backwards=False, view=None) -> ImagePairs:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for i in range(5):
        pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
        if not (folder / f"{i}.png").exists():
            Image.fromarray(pixels).save(folder / f"{i}.png")
    rows = [f"{folder}/{i}.png\tunused\t{masked.format(i)}" for i in (range(4, -1, -1) if backwards else range(5))]
    (folder / "list.tsv").write_text("\n".join(["filepath\ttitle\tmasked_title", *rows]))
    pairs = read_pair_list(folder / "list.tsv")
    preparation = Preparation(clip.sizes.image_size, clip.image_mean, clip.image_std)
    return ImagePairs(pairs, preparation, crop, 0, clip.sizes.context_length, view)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(record_store, "SHARD_ROWS", 2)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_features_are_those_of_the_images_within_the_stated_bound(golden_clip, pairs, tmp_path, precision):
    cache = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions(precision=precision), batch_size=2)
    batch, direct = cache[7, ROWS], pairs[7, ROWS]
    image = golden_clip.encode_image(direct.images)
    assert torch.equal(batch.condition_ids, direct.condition_ids)
    assert relative(batch.features.embedding, image.embedding) < 5e-6
    assert relative(batch.condition, golden_clip.encode_text(direct.condition_ids)) < 5e-6
    error = (see(golden_clip, batch).tokens - image.tokens).abs()
    bounds = {"fp16": image.tokens.abs() * 2**-11, "int8": image.tokens.abs().amax(-1, keepdim=True) / 254}
    assert (error <= bounds[precision] * 1.01 + 1e-5).all()


def test_each_row_is_verified_once_an_opening(golden_clip, pairs, tmp_path):
    cache = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions())
    source = ListSource(cache, 5, 5, 0, Process())
    assert not cache.images.store.verified.any()
    first, second = (next(iter(source.epoch(0))) for _ in range(2))
    assert cache.images.store.verified.all()
    assert torch.equal(first.features.tokens, second.features.tokens)


def test_threads_read_what_one_process_reads(golden_clip, pairs, tmp_path, device):
    """In the order of the epoch, from its middle on too; a fault in a thread is the reader's, which may stop early."""
    cache = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions(precision="int8"))

    def tokens(workers: int, start: int = 0) -> list[torch.Tensor]:
        batches = list(ListSource(cache, 5, 1, 0, Process(device=device), workers).epoch(3, start))
        assert all(batch.features.tokens.is_pinned() == (device.type == "cuda") for batch in batches)
        return [see(golden_clip, batch).tokens for batch in batches]

    alone = tokens(0)
    for found, wanted in ((tokens(2), alone), (tokens(3, 2), alone[2:])):
        assert len(found) == len(wanted)
        assert all(map(torch.equal, found, wanted))
    source = ListSource(cache, 5, 1, 0, Process(), 2)
    next(epoch := source.epoch(0))
    epoch.close()
    cache.images.store.sums[1] = cache.images.store.sums[1] + 1
    cache.images.store.verified[:] = False
    with pytest.raises(UserError, match="is damaged"):
        list(source.epoch(0))


def test_embeddings_alone(golden_clip, pairs, tmp_path):
    batch = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions(tokens=False))[0, ROWS]
    assert batch.features.tokens is None
    assert batch.size == len(batch.features.embedding) == 3


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 1e-4), ("int8", 5e-2)])
def test_training_is_the_same_within_the_bound(clip_there, pairs, tmp_path, precision, bound):
    process = Process(device=clip_there.device)

    def losses(rows) -> torch.Tensor:
        torch.manual_seed(0)
        mapper = ContextI2W(clip_there.sizes).to(process.device)
        options, optim = TrainOptions(epochs=3, batch_size=5), OptimOptions(lr=1e-3, warmup=1)
        trainer = Trainer(clip_there, mapper, ListSource(rows, 5, 5, 0, process), options, optim, process)
        seen = []
        trainer.run(lambda loss: seen.append(float(loss)), lambda: None)
        return torch.tensor(seen)

    cache = open_cache(tmp_path / "cache", pairs, clip_there, CacheOptions(precision=precision))
    assert relative(losses(cache), losses(pairs)) < bound


def test_each_epoch_has_its_crop_in_turn(golden_clip, tmp_path):
    pairs = make_pairs(tmp_path / "images", golden_clip, crop=True)
    cache = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions(crops=2))
    for epoch in range(4):
        direct = golden_clip.encode_image(pairs[epoch % 2, ROWS].images).embedding
        assert relative(cache[epoch, ROWS].features.embedding, direct) < 5e-6
    assert relative(cache[0, ROWS].features.embedding, cache[1, ROWS].features.embedding) > 1e-3


def test_an_interrupted_cache_goes_on_where_it_was(golden_clip, pairs, tmp_path, monkeypatch):
    encoded = []

    class Interrupted(FrozenCLIP):
        def encode_image(self, images):
            if len(encoded) == 3:
                raise KeyboardInterrupt
            encoded.append(len(images))
            return super().encode_image(images)

    with monkeypatch.context() as patch:
        patch.setattr(golden_clip, "__class__", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions(), batch_size=1)
        encoded.append(0)  # goes on for longer than it was interrupted
        whole = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions(), batch_size=1)
    assert sum(encoded) == 5  # no image twice
    fresh = open_cache(tmp_path / "fresh", pairs, golden_clip, CacheOptions(), batch_size=1)
    assert torch.equal(whole[0, ROWS].features.tokens, fresh[0, ROWS].features.tokens)
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_finished_cache_needs_no_images(golden_clip, pairs, tmp_path):
    first = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions())
    for path in pairs.pairs.images:
        os.unlink(path)
    again = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions())
    assert torch.equal(again[0, ROWS].features.tokens, first[0, ROWS].features.tokens)


def test_stale_features_are_refused_by_what_differs(golden_clip, pairs, tmp_path):
    folder = tmp_path / "cache"
    open_cache(folder, pairs, golden_clip, CacheOptions())
    for options, named in [(CacheOptions(precision="int8"), "precision"), (CacheOptions(crops=2), "crops, seed")]:
        with pytest.raises(UserError, match=f"another {named}; delete"):
            open_cache(folder, pairs, golden_clip, options)
    backwards = make_pairs(tmp_path / "images", golden_clip, backwards=True)
    with pytest.raises(UserError, match="another data_hash"):
        open_cache(folder, backwards, golden_clip, CacheOptions())


def test_other_captions_share_the_images(golden_clip, pairs, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    first = open_cache(folder, pairs, golden_clip, CacheOptions())[0, ROWS]
    other = make_pairs(tmp_path / "images", golden_clip, masked="another <|replace|> {}")
    monkeypatch.setattr(FrozenCLIP, "encode_image", lambda *_: pytest.fail("encoded again"))
    second = open_cache(folder, other, golden_clip, CacheOptions())[0, ROWS]
    assert torch.equal(first.features.tokens, second.features.tokens)
    assert relative(second.condition, golden_clip.encode_text(other[0, ROWS].condition_ids)) < 5e-6
    assert not torch.equal(first.condition, second.condition)
    assert torch.equal(open_cache(folder, pairs, golden_clip, CacheOptions())[0, ROWS].condition, first.condition)


def test_a_mapper_without_tokens_shares_a_cache_that_has_them(golden_clip, pairs, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    first = open_cache(folder, pairs, golden_clip, CacheOptions(precision="int8"))[0, ROWS]
    monkeypatch.setattr(FrozenCLIP, "encode_image", lambda *_: pytest.fail("encoded again"))
    second = open_cache(folder, pairs, golden_clip, CacheOptions(tokens=False))[0, ROWS]
    assert torch.equal(first.features.embedding, second.features.embedding)


def test_views_come_in_turn_and_the_target_stays_whole(golden_clip, tmp_path):
    view = ViewOptions(crop=0.4, colour=0.5)
    pairs = make_pairs(tmp_path / "images", golden_clip, view=view)
    folder = tmp_path / "cache"
    cache = open_cache(folder, pairs, golden_clip, CacheOptions(crops=2))
    whole = golden_clip.encode_image(make_pairs(tmp_path / "images", golden_clip)[0, ROWS].images)
    for epoch in range(3):
        seen = golden_clip.encode_image(pairs[epoch % 2, ROWS].images)
        batch = cache[epoch, ROWS]
        assert relative(batch.features.embedding, seen.embedding) < 5e-6
        assert relative(batch.features.tokens.float(), seen.tokens) < 1e-3
        assert relative(batch.target_embeddings, whole.embedding) < 5e-6
    assert relative(cache[0, ROWS].features.embedding, cache[1, ROWS].features.embedding) > 1e-3


def test_unfinished_and_cut_shards_are_not_read(golden_clip, pairs, tmp_path):
    folder = tmp_path / "cache"
    open_cache(folder, pairs, golden_clip, CacheOptions())
    last = sorted(folder.glob("*.bin"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    for damage in (lambda: None, last.unlink):
        damage()
        with pytest.raises(UserError, match=f"{last.name}: missing"):
            open_cache(folder, pairs, golden_clip, CacheOptions(), write=False)


def test_broken_images_are_left_out_and_named(golden_clip, pairs, tmp_path):
    with open(pairs.pairs.images[3], "w") as file:
        file.write("no image")
    cache = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions(), batch_size=2)
    batch: Batch = cache[0, ROWS]
    assert batch.broken == ((pairs.pairs.images[3], "broken when cached"),)
    assert torch.equal(batch.condition_ids, pairs[0, [4, 0]].condition_ids)
    assert batch.features.tokens.shape[0] == batch.size == 2


def test_two_runs_may_fill_one_cache(golden_clip, pairs, tmp_path):
    folder = tmp_path / "cache"
    with ThreadPoolExecutor(2) as pool:
        opened = [pool.submit(open_cache, folder, pairs, golden_clip, CacheOptions(), batch_size=1) for _ in range(2)]
        first, second = (future.result()[0, ROWS] for future in opened)
    assert torch.equal(first.features.embedding, second.features.embedding)
    assert torch.isfinite(first.features.tokens).all()


def test_a_full_disk_is_one_line(golden_clip, pairs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=r"No space left on device\); .*--cache-precision int8"):
        open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions())
    assert not list((tmp_path / "cache").glob("shard*"))


def test_a_changed_or_repaired_image_is_read_anew_and_alone(golden_clip, pairs, tmp_path, monkeypatch, capsys):
    folder, images = tmp_path / "cache", pairs.pairs.images
    shutil.copy(images[0], tmp_path / "good.png")
    Path(images[3]).write_text("no image")
    before = open_cache(folder, pairs, golden_clip, CacheOptions())
    assert before[0, [3]].size == 0
    shutil.copy(tmp_path / "good.png", images[3])
    shutil.copy(images[1], images[0])
    encoded = []
    real = FrozenCLIP.encode_image
    monkeypatch.setattr(FrozenCLIP, "encode_image", lambda self, x: encoded.append(len(x)) or real(self, x))
    after = open_cache(folder, pairs, golden_clip, CacheOptions())
    assert sum(encoded) == 2
    assert "2 images have changed since they were cached; they are read anew" in capsys.readouterr().err
    fresh = open_cache(tmp_path / "fresh", pairs, golden_clip, CacheOptions())
    rows = list(range(5))
    assert torch.equal(after[0, rows].features.tokens, fresh[0, rows].features.tokens)
    assert not torch.equal(after.embeddings(rows), before.embeddings(rows))


@pytest.mark.parametrize("place", [0, 1, 100, -1, -5, -20])
def test_a_flipped_bit_is_named(golden_clip, pairs, tmp_path, place):
    folder = tmp_path / "cache"
    open_cache(folder, pairs, golden_clip, CacheOptions())
    for shard in (folder / "shard-00001.bin", next(folder.glob("captions-*/shard-00001.bin"))):
        whole = shard.read_bytes()
        damaged = bytearray(whole)
        damaged[place] ^= 4
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=r"shard-00001\.bin: (row \d is )?damaged; delete the file"):
            open_cache(folder, pairs, golden_clip, CacheOptions())[0, range(5)]
        shard.unlink()
        assert open_cache(folder, pairs, golden_clip, CacheOptions())[0, range(5)].size == 5
        assert shard.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b'"field\n', b"[1]", b"{}", b'{"clip": 1}'])
def test_a_damaged_key_is_one_line(golden_clip, pairs, tmp_path, content):
    folder = tmp_path / "cache"
    open_cache(folder, pairs, golden_clip, CacheOptions())
    (folder / "key.json").write_bytes(content)
    with pytest.raises(UserError, match=r"delete"):
        open_cache(folder, pairs, golden_clip, CacheOptions())


def test_caches_of_earlier_versions_load_with_a_line(golden_clip, pairs, tmp_path, capsys):
    folder = tmp_path / "cache"
    new = open_cache(folder, pairs, golden_clip, CacheOptions())[0, ROWS]
    for shard in folder.rglob("*.bin"):
        rows = 1 if shard.name == "shard-00002.bin" else 2
        shard.write_bytes(shard.read_bytes()[: -20 * rows - 4])
    old = open_cache(folder, pairs, golden_clip, CacheOptions())[0, ROWS]
    assert torch.equal(old.features.tokens, new.features.tokens)
    assert "cache: written by an earlier version, without checksums" in capsys.readouterr().err


def test_a_whole_cache_is_read_where_nothing_can_be_written(golden_clip, pairs, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    first = open_cache(folder, pairs, golden_clip, CacheOptions())[0, ROWS]
    monkeypatch.setattr(record_store, "locked", lambda *_: pytest.fail("wants to write"))
    assert torch.equal(open_cache(folder, pairs, golden_clip, CacheOptions())[0, ROWS].condition, first.condition)


def test_tokens_beyond_fp16_count_as_broken(golden_clip, pairs, tmp_path, monkeypatch, capsys):
    real = FrozenCLIP.encode_image

    def large(self, images):
        seen = real(self, images)
        seen.tokens[0, 1, 2] = 70_000
        return seen

    monkeypatch.setattr(FrozenCLIP, "encode_image", large)
    batch = open_cache(tmp_path / "cache", pairs, golden_clip, CacheOptions(), batch_size=2)[0, range(5)]
    assert batch.size == 2
    assert batch.features.tokens.isfinite().all()


def test_what_one_large_channel_costs_in_int8_is_said(golden_clip, pairs, tmp_path, monkeypatch, capsys):
    open_cache(tmp_path / "plain", pairs, golden_clip, CacheOptions(precision="int8"))
    plain = capsys.readouterr().err
    assert "kept as int8: error " in plain
    assert "take --cache-precision fp16" not in plain
    real = FrozenCLIP.encode_image

    def large(self, images):
        seen = real(self, images)
        seen.tokens[..., 3] *= 1000
        return seen

    monkeypatch.setattr(FrozenCLIP, "encode_image", large)
    open_cache(tmp_path / "large", pairs, golden_clip, CacheOptions(precision="int8"))
    assert "take --cache-precision fp16" in capsys.readouterr().err


def test_a_folder_whose_name_is_no_utf_8_is_refused():
    with pytest.raises(UserError, match=r"--feature-cache .*UTF-8"):
        check_data(DataOptions(feature_cache="a\udc80"))
