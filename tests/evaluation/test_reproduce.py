"""The paper's tables beside ours: differences, and what was not run."""

import json
from pathlib import Path

from tests.checkpoints.test_checkpoints import published_file

import reproduce
from context_i2w.benchmarks import BENCHMARKS
from context_i2w.evaluation.paper_tables import TABLES, compared


def test_every_table_has_a_figure_for_every_cell():
    assert {table.mode for table in TABLES} == set(BENCHMARKS)
    for table in TABLES:
        for figures in table.published.values():
            assert len(figures) == len(table.groups) * len(table.metrics)


def test_published_means_are_those_of_their_groups():
    """Guards the figures against slips: the last group is the mean of the others, to rounding."""
    for table in TABLES:
        if table.groups[-1] != "mean":
            continue
        for row, figures in table.published.items():
            count = len(table.metrics)
            for metric in range(count):
                values = figures[metric::count]
                if None in values or len(values) == 1:
                    continue
                assert abs(sum(values[:-1]) / len(values[:-1]) - values[-1]) < 0.11, (table.mode, row)


def test_cells():
    coco = next(table for table in TABLES if table.mode == "coco")
    text = compared(coco, {"all": {"Context-I2W": {"R@1": 14.0, "R@5": 28.5, "R@10": 30.0}}})
    assert "14.0 / 13.5 (+0.5)" in text
    assert "30.0 / 38.1 (-8.1)" in text
    assert "not run / 11.5" in text


def test_two_processes_write_the_tables_of_one(tmp_path, mini_world, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/cirr").symlink_to(mini_world / "test" / "cirr")
    arguments = ["--resume", "toy", "--device", "cpu", "--workers", "0", "--batch-size", "16"]
    for processes in ("1", "2"):
        reproduce.main([*arguments, "--processes", processes, "--output", f"{processes}.md"])
    assert Path("1.md").read_bytes() == Path("2.md").read_bytes()
    assert Path("1.json").read_bytes() == Path("2.json").read_bytes()
    assert Path("1.md").read_text().count("Not run: no ") == len(TABLES) - 1


def test_runs_what_is_there_and_says_what_is_not(
    tmp_path, golden_clip_state, golden_mapper_state, monkeypatch, capsys, golden_data
):
    checkpoint = published_file(tmp_path / "best.pt", golden_clip_state, golden_mapper_state)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cirr").symlink_to(golden_data / "cirr")
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "data" / "icir"
    broken.mkdir()
    (broken / "query_files.csv").write_text("one,two\n")
    (broken / "database_files.csv").write_text("one,two,three\n")
    reproduce.main(["--resume", str(checkpoint), "--device", "cpu", "--workers", "0"])
    text = (tmp_path / "reproduction.md").read_text()
    content = json.loads((tmp_path / "reproduction.json").read_text())
    tables = {table["title"]: table for table in content["tables"]}
    assert len(tables) == len(TABLES)
    validation = next(table for title, table in tables.items() if "CIRR validation" in title)
    assert f"{validation['results']['all']['Context-I2W']['R@1']:.1f}" == "18.7"
    assert validation["published"]["all"]["LinCIR"] == {"R@1": 25.09, "R@5": 54.41}
    assert "query_files.csv:1" in next(table["not run"] for title, table in tables.items() if "i-CIR" in title)
    assert "18.7 / 26.96 (-8.3)" in text
    queries = json.loads((golden_data / "cirr" / "captions" / "cap.rc2.val.json").read_text())
    assert f"**Not the published data: {len(queries)} queries here." in text
    assert "Not run: no COCO data" in text
    assert (tmp_path / "submissions" / "cirr_test_Context-I2W_recall_subset.json").is_file()
