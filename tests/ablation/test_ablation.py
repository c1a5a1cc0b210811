"""Grids: their files, their runs and tables on a miniature toy world, through the script itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ablate
from context_i2w.ablation.grid import read_grid
from context_i2w.ablation.results import differences_of
from context_i2w.ablation.runs import run_of
from context_i2w.errors import UserError
from context_i2w.ranking.significance import Scores
from context_i2w.toy_world.pairs import FOLDER, TRAINING_LIST
from context_i2w.training.options import parse_settings

SHIPPED = sorted((Path(__file__).parents[2] / "scripts" / "grids").glob("*.toml"))
HEAD = 'question = ""\nseeds = 1\nfull = "a"\n'
RECIPE = "--epochs 1 --batch-size 16 --warmup 2 --device cpu --workers 0 --model toy --pretrained toy"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_grids_name_options_that_are_there(path):
    grid = read_grid(path)
    for row in grid.rows.values():
        for options in row.variants():
            assert parse_settings([*grid.options, *options]).train.epochs


def test_the_papers_grid_asks_for_five_seeds_and_four_tasks():
    grid = read_grid(next(path for path in SHIPPED if path.stem == "paper"))
    assert grid.seeds >= 5
    assert grid.tasks == ("imgnet", "coco", "cirr", "fashion")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows = 3", "grid.py shows the form"),
        (HEAD + 'rows = {a = ""}\nrow = 3', "unknown key row"),
        (HEAD + 'rows = {b = ""}', "full: no row 'a'; the rows are b"),
        (HEAD.replace("1", "0") + 'rows = {a = ""}', "seeds a number from 1 on"),
        (HEAD + 'rows = {a = {option = ""}}', "row 'a' has no key option"),
        (HEAD + 'tasks = ["x"]\nrows = {a = ""}', "tasks: x unknown"),
        (HEAD + 'rows = {a = ""}\ncompare = [{row = "a", against = ["b"]}]', "compare: no row 'b'"),
        (HEAD + 'rows = {a = ""}\ncompare = [{row = "a", against = ["a", "a"]}]', "with one row"),
        (HEAD + 'rows = {a = ""}\ncompare = [{row = "a", against = ["a"], nearest = "luck"}]', "in loss or seconds"),
        ("a = [", "not TOML"),
    ],
)
def test_a_wrong_grid_is_one_clear_line(tmp_path, text, message):
    (tmp_path / "grid.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_grid(tmp_path / "grid.toml")


@pytest.mark.parametrize("content", [b"\xef\xf2", b"a = " + b"[" * 200_000])
def test_a_damaged_grid_is_no_toml(tmp_path, content):
    (tmp_path / "grid.toml").write_bytes(content)
    with pytest.raises(UserError, match="not TOML"):
        read_grid(tmp_path / "grid.toml")


def test_rows_are_marked_in_both_directions_and_only_beyond_chance():
    rng = np.random.default_rng(0)
    base = rng.normal(50, 20, (5, 300))

    def made(shift: float) -> Scores:
        return Scores(base + shift + rng.normal(0, 3, (5, 300)), np.full(300, 1 / 300), np.arange(300))

    found = {"full": made(0), "better": made(2), "worse": made(-2), "same": made(0)}
    pairs = [(found[name], found["full"]) for name in ("better", "worse", "same")]
    assert [tested.mark for tested in differences_of(pairs)] == ["+", "-", ""]


def test_a_run_is_named_by_its_settings_and_not_by_how_they_are_written(tmp_path):
    def name(options: str) -> str:
        return run_of(["--train-data", "list", *options.split()], tmp_path).folder.name

    assert name("--seed 1 --lr 1e-3") == name("--lr 0.001 --seed 1")
    assert len({name("--seed 1"), name("--seed 2"), name("--seed 1 --view-crop 0.5")}) == 3


def test_a_new_toy_world_leaves_runs_on_other_data_as_they_are(tmp_path, monkeypatch):
    def names() -> list[str]:
        return [run_of(options, tmp_path).folder.name for options in ([], ["--train-data", "list"])]

    before = names()
    monkeypatch.setattr("context_i2w.ablation.runs.VERSION", -1)
    assert [a == b for a, b in zip(before, names(), strict=True)] == [False, True]


def test_a_grid_trains_scores_compares_and_goes_on(mini_world, tmp_path, capsys, monkeypatch):
    world = mini_world
    (tmp_path / "grid.toml").write_text(f"""
question = "Does it run?"
seeds = 2
full = "full"
options = "--train-data {world / FOLDER / TRAINING_LIST} --feature-cache {tmp_path / "cache"} {RECIPE}"
tasks = ["cirr", "fashion"]
methods = ["image", "slerp:0.7", "composed", "blended:0.5"]
data = {{dev = "{world / "dev"}", test = "{world / "test"}"}}

[rows]
full = "--mapper-option depth=1"
"no rotation" = "--mapper-option depth=1 --mapper-option rotation=False"

[rows.Pic2Word]
options = "--mapper pic2word"
choose = ["--lr 1e-6", "--lr 3e-3"]

[[compare]]
row = "full"
against = ["Pic2Word", "no rotation"]
nearest = "loss"

[[compare]]
row = "Pic2Word"
against = ["no rotation"]

[[compare]]
row = "Pic2Word blended:0.5"
against = ["slerp:0.7"]
""")
    arguments = [str(tmp_path / "grid.toml"), "--output", str(tmp_path / "out"), "--logs", str(tmp_path / "logs")]
    ablate.main([*arguments, "--jobs", "2"])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    trained = [name for row in ("full", "no rotation", "Pic2Word") for name in (row, f"{row} blended:0.5")]
    assert list(results["rows"]) == ["image", "slerp:0.7", *trained]
    pic2word = results["rows"]["Pic2Word"]
    assert set(pic2word["chosen_from"]) == {"--lr 1e-6", "--lr 3e-3"}
    assert pic2word["options"].endswith(max(pic2word["chosen_from"], key=pic2word["chosen_from"].get))
    for name in ("full", "no rotation", "Pic2Word"):
        row = results["rows"][name]
        assert len(row["tasks"]["cirr"]["seeds"]) == 2
        assert row["tasks"]["cirr"]["low"] <= row["tasks"]["cirr"]["mean"] <= row["tasks"]["cirr"]["high"]
        assert row["tasks"]["cirr"]["mean"] == pytest.approx(np.mean(row["tasks"]["cirr"]["metrics"]["R@1"]))
        assert row["tasks"]["fashion"]["mean"] == pytest.approx(np.mean(row["tasks"]["fashion"]["metrics"]["R@10"]))
        assert row["seconds"] > 0
        assert (row["tasks"]["cirr"]["difference"] is None) == (name == "full")
    assert results["rows"]["full"]["parameters"] > results["rows"]["no rotation"]["parameters"]
    assert results["comparisons"][0]["with"] in ("Pic2Word", "no rotation")
    assert results["comparisons"][1]["with"] == "no rotation"
    means = [results["rows"][name]["tasks"]["cirr"]["mean"] for name in ("Pic2Word blended:0.5", "slerp:0.7")]
    difference = results["comparisons"][2]["differences"]["cirr"]["difference"]["mean"]
    assert difference == pytest.approx(means[0] - means[1])
    assert (tmp_path / "out" / "report.md").read_text() in printed
    assert all((tmp_path / "out" / f"{task}.png").stat().st_size > 5_000 for task in ("cirr", "fashion"))

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr("context_i2w.ablation.runs.ProcessPoolExecutor", never)
    ablate.main([*arguments, "--rows", "no rotation"])
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(again["rows"]) == ["image", "slerp:0.7", *trained[:4]]
    assert again["rows"]["no rotation"]["tasks"]["cirr"]["mean"] == pytest.approx(
        results["rows"]["no rotation"]["tasks"]["cirr"]["mean"]
    )


GRID = """
import time, multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
from context_i2w.ablation.runs import _begin

context = multiprocessing.get_context("fork")  # any way of starting will do; this one does not import torch again
devices = context.Queue()
devices.put("cpu")
pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(devices, 1))
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 600).result()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_workers_end_with_a_grid_that_is_killed():
    def runs(pid: int) -> bool:
        try:
            return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False

    with subprocess.Popen([sys.executable, "-c", GRID], stdout=subprocess.PIPE, text=True) as grid:
        worker = int(grid.stdout.readline())
        assert runs(worker)
        os.kill(grid.pid, signal.SIGKILL)
        end = time.monotonic() + 30
        while runs(worker) and time.monotonic() < end:
            time.sleep(0.1)
    assert not runs(worker)
