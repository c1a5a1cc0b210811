"""The measuring scripts: their arithmetic on hand-made cases, and a small run of each."""

import json

import numpy as np
import pytest
import torch
from tests.checkpoints.test_checkpoints import published_file

from benchmarking import attention_mass, large_index
from measure import attention, index


def test_patch_cover():
    mask = np.zeros((6, 6), bool)
    mask[:3, :3] = mask[4:, 4:] = True
    cover = attention_mass.patch_cover(mask, 2)
    assert torch.allclose(cover, torch.tensor([1, 0, 0, 4 / 9]))


def test_summary_of_a_map_that_follows_and_of_one_that_does_not():
    area = torch.tensor([[0.2, 0.4], [0.2, 0.4]])
    follows = torch.tensor([[[0.5, 0.1], [0.1, 0.7]]]).expand(2, 2, 2)
    found = attention_mass.summary(follows, area)
    assert found["share"] == 60
    assert found["chance"] == pytest.approx(30, abs=0.01)
    assert found["moved"] == pytest.approx(50, abs=0.01)
    assert found["of_both"] == pytest.approx((5 / 6 + 7 / 8) / 2 * 100, abs=0.01)
    even = area[:, None].expand(2, 2, 2)
    found = attention_mass.summary(even, area)
    assert (found["moved"], found["share"]) == (0, found["chance"])


def test_scenes_have_two_objects_and_are_the_same_each_time():
    scenes = [attention_mass.make_scene(number) for number in range(20)]
    assert all(len(set(scene.kinds())) == 2 for scene in scenes)
    assert scenes == [attention_mass.make_scene(number) for number in range(20)]


def test_attention_script(tmp_path, capsys, golden_clip_state, golden_mapper_state):
    checkpoint = published_file(tmp_path / "c.pt", golden_clip_state, golden_mapper_state)
    out = tmp_path / "a.json"
    attention.main(["--resume", str(checkpoint), "--scenes", "3", "--output", str(out)])
    results = json.loads(out.read_text())["results"]
    assert set(results) == set(attention_mass.FORMS)
    assert "all queries" in capsys.readouterr().out
    for maps in results.values():
        assert all(0 < row["share"] < 100 and row["chance"] == maps["query 1"]["chance"] for row in maps.values())


def test_made_rows():
    for kind in index.KINDS:
        rows = large_index.make_rows(50, 16, kind, 3)
        assert rows.dtype == np.float32
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert not np.array_equal(*(large_index.make_rows(5, 8, "clustered", seed) for seed in (0, 1)))


def test_index_script(tmp_path, capsys):
    pytest.importorskip("faiss", reason="measured is search by faiss-cpu")
    out = tmp_path / "i.json"
    index.main(["--images", "300", "--width", "8", "--factories", "Flat", "--threads", "1", "--output", str(out)])
    tables = json.loads(out.read_text())["tables"]
    assert [row["way"] for row in tables["random"]] == ["exact", "Flat"]
    assert all(row["recall@10"] == 1 and row["query_ms"] > 0 for rows in tables.values() for row in rows)
    assert "| exact |" in capsys.readouterr().out
