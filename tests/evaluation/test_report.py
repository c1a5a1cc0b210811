"""Reports: the JSON's shape, rankings, submissions, the table."""

import json

import pytest
import torch

from context_i2w.benchmarks.base import Benchmark, QueryGroup
from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import Result
from context_i2w.evaluation.report import (
    as_json,
    table,
    write_json,
    write_rankings,
    write_submissions,
)
from context_i2w.files import check_writable
from context_i2w.model.images import ImageSource


@pytest.fixture
def result():
    group = QueryGroup(
        name="cartoon",
        gallery=[ImageSource("a"), ImageSource("b")],
        gallery_names=["a", "b"],
        references=[ImageSource("q")] * 2,
        query_ids=["first", "second"],
        prompts=[("p",)] * 2,
        texts=[("t",)] * 2,
        positives=[(0,), (1,)],
        score=lambda ranking: {},
    )
    protocol = {"prompt": "a cartoon of [*]", "ceiling": {"cartoon": {"R@10": 41.4}}}
    metrics = {f"R@{k}": float(k) for k in (1, 5, 10)} | {f"P@{k}": 0.5 for k in range(7)}
    return Result(
        Benchmark("imgnet", [group], protocol),
        metrics={"cartoon": {"image": metrics, "composed": metrics}},
        tops={("cartoon", row): torch.tensor([[1, 0], [0, -1]]) for row in ("image", "composed")},
        submissions={"image+text": {"recall": {"version": "rc2"}, "recall_subset": {"version": "rc2"}}},
        passes={"images": 3},
        seconds=1.234,
    )


def test_json_contract(result, tmp_path):
    path = tmp_path / "deep" / "out.json"
    write_json(as_json(result, {"clip": {"name": "toy"}}), path)
    content = json.loads(path.read_text())
    assert content["benchmark"] == "imgnet"
    assert content["protocol"]["prompt"] == "a cartoon of [*]"
    assert content["results"]["cartoon"]["composed"]["R@10"] == 10.0
    assert content["clip"] == {"name": "toy"}
    assert content["passes"] == {"images": 3}
    assert {"context_i2w", "torch", "open_clip_torch", "pillow"} <= set(content["versions"])
    assert [file.name for file in path.parent.iterdir()] == ["out.json"]  # nothing temporary stays


def test_rankings_lines(result, tmp_path):
    write_rankings(result, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0] == {"group": "cartoon", "row": "image", "query": 0, "id": "first", "top": ["b", "a"]} | {
        "reference": lines[0]["reference"], "scores": {}
    }  # fmt: skip
    assert (lines[-1]["row"], lines[-1]["query"], lines[-1]["id"], lines[-1]["top"]) == ("composed", 1, "second", ["a"])
    assert len(lines) == 4


def test_submission_files(result, tmp_path):
    paths = write_submissions(result, tmp_path / "to_upload")
    assert [path.name for path in paths] == [
        "imgnet_image+text_recall.json",
        "imgnet_image+text_recall_subset.json",
    ]
    assert all(json.loads(path.read_text()) == {"version": "rc2"} for path in paths)


def test_table_shows_protocol_every_number_and_ceiling(result):
    lines = table(result).splitlines()
    assert lines[0] == "imgnet: prompt a cartoon of [*]"
    assert any(line.split()[:5] == ["percent", "R@1", "R@5", "R@10", "P@0"] for line in lines)
    assert any(line.startswith("cartoon composed") and "10.00" in line for line in lines)
    assert sum("(ceiling)" in line for line in lines) == 1
    assert any("41.40" in line for line in lines)
    assert "3 images" in lines[-1]


def test_outputs_that_cannot_be_written_are_seen_before(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        check_writable(tmp_path / "file" / "out.json", "--output")
    with pytest.raises(UserError, match="a folder"):
        check_writable(tmp_path, "--output")
    check_writable(tmp_path / "new" / "out.json", "--output")
    assert not list((tmp_path / "new").iterdir())
