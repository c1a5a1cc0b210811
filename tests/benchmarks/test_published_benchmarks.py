"""End to end against the published implementation: `src/eval_retrieval.py` on small benchmarks.

`tests/golden/benchmarks.zip` holds a data root in the genuine formats, odd images and captions included;
`tests/golden/benchmarks/` what the published code reports on it. The checkpoint is put together in the published file
format.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eval_retrieval
from conftest import pillow_13

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parents[1] / "golden" / "benchmarks"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
ROWS = {"composed": "composed", "image": "image", "text": "text", "image+text": "mixture"}
POINTS = 0.01


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, golden_clip_state, golden_mapper_state):
    """A file as the published training code saves it."""
    path = tmp_path_factory.mktemp("published") / "epoch_1.pt"
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    content = {
        "epoch": 1,
        "name": "published",
        "state_dict": {f"module.{name}": tensor for name, tensor in golden_clip_state.items()},
        "state_dict_img2text": {f"module.{name}": tensor for name, tensor in golden_mapper_state.items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def run(checkpoint, golden_data, tmp_path_factory):
    """Evaluates one mode through the script, once; gives the JSON and the rankings."""
    finished = {}

    def evaluate(mode: str, folder: Path):
        command = ["--openai-pretrained", "--eval-mode", mode, "--resume", str(checkpoint), "--device", "cpu"]
        command += ["--data-root", str(golden_data)]
        command += ["--output", str(folder / "out.json"), "--rankings", str(folder / "out.jsonl")]
        if mode == "cirr_test":
            command += ["--submission-dir", str(folder / "submission")]
        if mode == "cirr":  # one through the shell, the others without the start of a process
            command = [sys.executable, "src/eval_retrieval.py", *command]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        else:
            eval_retrieval.main(command)
        return folder

    def once(mode: str):
        if mode not in finished:
            finished[mode] = evaluate(mode, tmp_path_factory.mktemp(mode))
        folder = finished[mode]
        rankings = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
        return json.loads((folder / "out.json").read_text(encoding="utf-8")), rankings

    once.folders = finished
    return once


def top_lists(rankings, group, row="composed"):
    entries = [entry for entry in rankings if entry["group"] == group and entry["row"] == row]
    assert [entry["query"] for entry in entries] == list(range(len(entries)))
    return [entry["top"] for entry in entries]


def assert_same_lists(found, expected, near_ties):
    """Equal lists; where the published similarities of neighbours differ by less than 1e-5 these may swap."""
    assert len(found) == len(expected)
    for query, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        ours = ours[: len(theirs)]
        if ours != theirs:
            positions = near_ties.get(str(query), [])
            different = {i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b}
            assert different <= {i for p in positions for i in (p, p + 1)}, (query, ours, theirs)


def assert_metrics(found, expected, rename, scale):
    for ours, theirs in ROWS.items():
        wanted = {rename(name): scale(name) * value for name, value in expected[theirs].items()}
        assert {name: found[ours][name] for name in wanted} == pytest.approx(wanted, abs=POINTS)


@pillow_13
def test_cirr(run):
    output, rankings = run("cirr")
    expected = EXPECTED["cirr"]
    assert_metrics(
        output["results"]["all"], expected["metrics"], lambda name: name.removeprefix("recall_"), lambda _: 1
    )
    subset = expected["subset"]["metrics"]
    assert {name: output["results"]["all"]["composed"][name] for name in subset} == pytest.approx(subset, abs=POINTS)
    assert_same_lists(top_lists(rankings, "all"), expected["top10_composed"], expected["top10_near_tie_positions"])
    assert [entry["id"] for entry in rankings[: len(expected["pairids"])]] == [str(p) for p in expected["pairids"]]


@pytest.mark.parametrize("garment", ["dress", "shirt", "toptee"])
def test_fashion(run, garment):
    output, rankings = run("fashion")
    expected = EXPECTED[f"fashion_{garment}"]
    assert_metrics(output["results"][garment], expected["metrics"], str, lambda _: 1)
    assert_same_lists(top_lists(rankings, garment), expected["top10_composed"], expected["top10_near_tie_positions"])
    mean = sum(EXPECTED[f"fashion_{g}"]["metrics"]["composed"]["R@10"] for g in ("dress", "shirt", "toptee")) / 3
    assert output["results"]["mean"]["composed"]["R@10"] == pytest.approx(mean, abs=POINTS)


def test_coco(run):
    output, rankings = run("coco")

    def rename(name):
        measure = name.removeprefix("image_to_ref_").removeprefix("ref_to_image_").replace("_", " ")
        return f"reverse {measure}" if name.startswith("image_to_ref") else measure

    expected = EXPECTED["coco"]
    scale = lambda name: 1 if "rank" in name else 100  # noqa: E731
    assert_metrics(output["results"]["all"], expected["metrics"], rename, scale)
    assert_same_lists(top_lists(rankings, "all"), expected["top10_composed"], expected["top10_near_tie_positions"])


@pytest.mark.parametrize("domain", ["cartoon", "origami", "toy", "sculpture"])
def test_imagenet(run, domain):
    output, rankings = run("imgnet")
    expected = EXPECTED["imgnet"]["domains"][domain]
    rename = lambda name: name.removeprefix("Real2Sketch_")  # noqa: E731
    assert_metrics(output["results"][domain], expected["metrics"], rename, lambda _: 100)
    assert_same_lists(top_lists(rankings, domain), expected["top10_composed"], expected["top10_near_tie_positions"])


@pytest.mark.parametrize("row", ROWS)
def test_cirr_submission(run, row):
    run("cirr_test")
    folder = run.folders["cirr_test"] / "submission"
    found = json.loads((folder / f"cirr_test_{row}_recall.json").read_text())
    expected = EXPECTED["cirr_test"]["submission"][ROWS[row]]
    assert list(found) == list(expected)
    near_ties = EXPECTED["cirr_test"]["near_ties"][ROWS[row]]
    for pair, names in expected.items():
        if pair in ("version", "metric"):
            assert found[pair] == names
        else:
            assert_same_lists([found[pair]], [names], {"0": near_ties.get(pair, [])})


def test_cirr_subset_submission(run, golden_data):
    run("cirr_test")
    folder = run.folders["cirr_test"] / "submission"
    whole = json.loads((folder / "cirr_test_composed_recall.json").read_text())
    found = json.loads((folder / "cirr_test_composed_recall_subset.json").read_text())
    entries = json.loads((golden_data / "cirr/captions/cap.rc2.test1.json").read_text())
    assert (found["version"], found["metric"]) == ("rc2", "recall_subset")
    for entry in entries:
        names = found[str(entry["pairid"])]
        others = set(entry["img_set"]["members"]) - {entry["reference"]}
        assert len(names) == 3
        assert set(names) <= others
        in_whole = [name for name in whole[str(entry["pairid"])] if name in others]
        assert names[: len(in_whole)] == in_whole[:3]  # as far as the 50 names reach
