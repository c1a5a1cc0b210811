"""The script src/eval_retrieval.py: its options, its rows, and one clear line for every mistake."""

import json
import os
from pathlib import Path

import pytest
import torch
from tests.benchmarks.made_more import write_domains, write_icir

import eval_retrieval
from context_i2w.checkpoints.find import LAST
from context_i2w.evaluation.setup import choose_checkpoints, row_names
from context_i2w.model.queries import RECOMMENDED


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, golden_clip_state, golden_mapper_state):
    path = tmp_path_factory.mktemp("published") / "epoch_1.pt"
    content = {"epoch": 1, "name": "x", "state_dict": golden_clip_state, "state_dict_img2text": golden_mapper_state}
    torch.save(content, path)
    return path


@pytest.fixture
def refused(capsys):
    """Runs the script, which must fail in one line with status 2; gives the line."""

    def run(*arguments) -> str:
        with pytest.raises(SystemExit) as caught:
            eval_retrieval.main([str(argument) for argument in arguments])
        assert caught.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    return run


def test_both_spellings_and_published_flags(checkpoint, tmp_path, capsys, golden_data):
    output = tmp_path / "out.json"
    arguments = ["--openai-pretrained", "--resume", checkpoint, "--eval_mode", "fashion", "--source", "dress"]
    arguments += ["--data-root", golden_data, "--output", output, "--batch-size", 16, "--workers", 0, "--device", "cpu"]
    eval_retrieval.main([str(argument) for argument in arguments])
    content = json.loads(output.read_text())
    assert list(content["results"]) == ["dress"]
    assert content["protocol"]["source"] == "dress"
    assert content["checkpoints"]["composed"]["path"] == str(checkpoint)
    assert len(content["checkpoints"]["composed"]["sha256"]) == len(content["clip"]["sha256"]) == 64
    assert "dress composed" in capsys.readouterr().out


def test_clip_alone_has_the_rows_without_a_mapper(checkpoint, tmp_path, capsys, golden_data, golden_clip_state):
    """The same rows as beside a mapper."""
    weights, output = tmp_path / "clip.pt", tmp_path / "out.json"
    torch.save(golden_clip_state, weights)
    common = ["--eval-mode", "fashion", "--source", "dress", "--data-root", golden_data, "--output", output]
    alone = [*map(str, common), "--pretrained", str(weights)]
    eval_retrieval.main(alone)
    found = json.loads(output.read_text())
    assert list(found["results"]["dress"]) == ["image", "text", "image+text", "slerp"]
    assert found["checkpoints"] == {}
    eval_retrieval.main([*map(str, common), "--resume", str(checkpoint), "--methods", "image,slerp"])
    beside = json.loads(output.read_text())["results"]["dress"]
    assert beside == {row: found["results"]["dress"][row] for row in ("image", "slerp")}
    with pytest.raises(SystemExit):
        eval_retrieval.main([*alone, "--methods", "composed"])
    assert "error: composed: of a mapper; give one by --resume" in capsys.readouterr().err


def test_several_checkpoints_give_a_row_each(checkpoint, tmp_path, golden_data):
    copy, output = tmp_path / "other.pt", tmp_path / "out.json"
    copy.write_bytes(checkpoint.read_bytes())
    arguments = ["--resume", checkpoint, "--resume", copy, "--eval-mode", "imgnet", "--data-root", golden_data]
    eval_retrieval.main([str(argument) for argument in [*arguments, "--output", output, "--device", "cpu"]])
    content = json.loads(output.read_text())
    rows = content["results"]["mean"]
    of_mappers = [f"{name} {method}" for name in ("epoch_1", "other") for method in ("composed", RECOMMENDED)]
    assert list(rows) == ["image", "text", "image+text", *of_mappers]
    assert rows["epoch_1 composed"] == rows["other composed"]
    assert content["recommended"] == [f"epoch_1 {RECOMMENDED}", f"other {RECOMMENDED}"]
    assert content["passes"]["images"] == 120


def test_all_benchmarks_at_hand(checkpoint, tmp_path, capsys):
    """One is there, one is broken, the others are absent: the one runs, the end names the broken."""
    root, output, lines = tmp_path / "data", tmp_path / "all.json", tmp_path / "all.jsonl"
    write_domains(root, "ltll")
    write_icir(root)
    (root / "icir" / "query" / "lamp" / "q0.jpg").unlink()
    arguments = ["--resume", checkpoint, "--eval-mode", "all", "--data-root", root, "--device", "cpu", "--workers", 0]
    arguments += ["--methods", "image,image*text", "--intervals", "--output", output, "--rankings", lines]
    with pytest.raises(SystemExit) as caught:
        eval_retrieval.main([str(argument) for argument in [*arguments, "--source", "dress"]])
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.strip().endswith("error: failed: icir")
    assert "icir: failed, icir: 1 of" in shown.out
    assert "cirr: not at hand, no CIRR data" in shown.out
    content = json.loads(output.read_text())
    ltll = content["benchmarks"]["ltll"]
    value = ltll["results"]["mean"]["image*text"]["mAP"]
    low, high = ltll["intervals"]["mean"]["image*text"]["mAP"]
    assert low <= value <= high
    assert f"{value:.2f} [{low:.2f}, {high:.2f}]" in shown.out
    summary = next(line.split() for line in shown.out.splitlines() if line.startswith("| ltll"))
    image = ltll["results"]["mean"]["image"]["mAP"]
    assert [word for word in summary if word != "|"] == ["ltll", "mAP", f"{image:.2f}", f"{value:.2f}"]
    assert content["failed"].keys() == {"icir"}
    assert {json.loads(line)["benchmark"] for line in lines.read_text().splitlines()} == {"ltll"}


@pytest.mark.parametrize(
    ("paths", "rows"),
    [
        (["logs/a/checkpoints/last.pt"], ["composed"]),
        (["x/a.pt", "x/b.pt"], ["a", "b"]),
        (["logs/a/checkpoints/last.pt", "logs/b/checkpoints/last.pt"], ["a/last", "b/last"]),
        (["p/q/r/x.pt", "s/q/r/x.pt"], ["p/q/r/x.pt", "s/q/r/x.pt"]),
        (["x/image.pt", "x/b.pt"], ["./image", "./b"]),
    ],
)
def test_row_names_are_distinct(paths, rows):
    if rows[0] == "./image":
        rows = [f"{Path(path).parent.parent.name}/{Path(path).stem}" for path in paths]
    assert row_names([Path(path) for path in paths]) == rows


def test_the_newest_run_is_taken_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for age, run in enumerate(("new", "old")):
        path = tmp_path / "logs" / run / "checkpoints" / LAST
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    assert choose_checkpoints(None) == [Path("logs/new/checkpoints") / LAST]
    assert "logs/new" in capsys.readouterr().out


def test_unknown_task(refused):
    assert "--eval-mode video: unknown" in refused("--eval-mode", "video")


def test_missing_checkpoint(refused, tmp_path):
    assert "no such checkpoint" in refused("--eval-mode", "cirr", "--resume", tmp_path / "absent.pt")


def test_missing_data_folder(refused, checkpoint, tmp_path):
    line = refused("--eval-mode", "cirr", "--resume", checkpoint, "--data-root", tmp_path / "absent")
    assert "no data folder" in line
    assert "scripts/check_data.py" in line


def test_missing_gpu(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "leave out --gpu" in refused("--eval-mode", "cirr", "--gpu", 0)


def test_unknown_device(refused):
    assert "device warp" in refused("--eval-mode", "cirr", "--device", "warp")


def test_model_that_contradicts_the_checkpoint(refused, checkpoint, golden_data):
    line = refused("--eval-mode", "cirr", "--resume", checkpoint, "--model", "ViT-L/14", "--data-root", golden_data)
    assert "contradicts" in line


def test_option_of_another_benchmark(refused, checkpoint, golden_data):
    line = refused("--eval-mode", "cirr", "--source", "dress", "--resume", checkpoint, "--data-root", golden_data)
    assert "--source dress: it has no meaning for --eval-mode cirr" in line


def test_submission_of_a_benchmark_with_answers(refused, checkpoint, tmp_path, golden_data):
    line = refused(
        *("--eval-mode", "cirr", "--resume", checkpoint, "--data-root", golden_data, "--submission-dir", tmp_path)
    )
    assert "--submission-dir" in line


@pytest.mark.parametrize(("option", "value"), [("--batch-size", 0), ("--workers", -1)])
def test_numbers_out_of_range(refused, option, value):
    assert option in refused("--eval-mode", "cirr", option, value)


def test_output_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "--output" in refused("--eval-mode", "cirr", "--output", tmp_path / "file" / "out.json")


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        eval_retrieval.main(["--help"])
    shown = capsys.readouterr().out
    for option in ("--fashioniq-gallery", "--cirr-prompt", "--coco-ending", "--circo-split", "--rankings"):
        assert option in shown
