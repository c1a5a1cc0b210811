"""Image embeddings kept between evaluations: the same results from fewer passes, never from stale files."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from context_i2w.benchmarks.base import Benchmark, QueryGroup
from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import template
from context_i2w.ranking.metrics import recall_at


@pytest.fixture
def made_up(tmp_path):
    """Two queries over six images, the first two of which are the references."""
    random = np.random.default_rng(0)
    for name in "abcdef":
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / f"{name}.png")
    gallery = [ImageSource(str(tmp_path / f"{name}.png")) for name in "abcdef"]
    group = QueryGroup(
        name="all",
        gallery=gallery,
        gallery_names=list("abcdef"),
        references=gallery[:2],
        query_ids=["0", "1"],
        prompts=[(template("a photo of [*] , red"),), (template("a photo of [*] , blue"),)],
        texts=[("red",), ("blue",)],
        positives=[[2], [3]],
        score=lambda ranking: recall_at(ranking.ranks(torch.tensor([2, 3])), (1, 3)),
    )
    return Benchmark("made-up", [group])


def run(made_up, clip, mapper, folder, precision="fp32"):
    options = EncodingOptions(4, 0, precision, folder)
    return evaluate(made_up, clip, {"composed": mapper}, options)


def test_later_runs_pass_only_references(golden_clip, golden_mapper, made_up, tmp_path):
    direct = run(made_up, golden_clip, golden_mapper, None)
    first, second = (run(made_up, golden_clip, golden_mapper, tmp_path / "cache") for _ in range(2))
    assert [result.passes["images"] for result in (direct, first, second)] == [6, 6, 2]
    for result in (first, second):
        assert result.metrics == direct.metrics
        assert all(torch.equal(top, direct.tops[key]) for key, top in result.tops.items())


def test_changed_images_and_settings_are_encoded_again(golden_clip, golden_mapper, made_up, tmp_path):
    folder = tmp_path / "cache"
    run(made_up, golden_clip, golden_mapper, folder)
    assert run(made_up, golden_clip, golden_mapper, folder, precision="amp").passes["images"] == 6
    path = made_up.groups[0].gallery[5].path
    Image.new("RGB", (40, 50)).save(path)
    assert run(made_up, golden_clip, golden_mapper, folder).passes["images"] == 6
    assert run(made_up, golden_clip, golden_mapper, folder).passes["images"] == 2
    os.utime(path, (1, 1))
    assert run(made_up, golden_clip, golden_mapper, folder).passes["images"] == 6


def test_damaged_files_and_impossible_folders_are_named(golden_clip, golden_mapper, made_up, tmp_path, capsys):
    folder = tmp_path / "cache"
    run(made_up, golden_clip, golden_mapper, folder)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for content in (b"damaged", whole[:-4], bytes(flipped)):
        file.write_bytes(content)
        assert run(made_up, golden_clip, golden_mapper, folder).passes["images"] == 6
        assert f"{file.name}: damaged" in capsys.readouterr().err
        assert file.read_bytes() == whole
    save_file({"embeddings": load_file(file)["embeddings"]}, file)
    assert run(made_up, golden_clip, golden_mapper, folder).passes["images"] == 2
    assert "without a checksum" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--feature-cache .*can't be written"):
        run(made_up, golden_clip, golden_mapper, file)


def test_a_disk_that_gets_full_costs_the_cache_alone(
    golden_clip, golden_mapper, made_up, tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(made_up, golden_clip, golden_mapper, tmp_path / "cache").passes["images"] == 6
    assert (
        "No space left on device); make room, or name another place; the embeddings are not kept"
        in capsys.readouterr().err
    )
    assert not list((tmp_path / "cache").iterdir())
