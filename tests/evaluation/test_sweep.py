"""Weights measured, chosen by the rule, and applied with their origin."""

import json
from pathlib import Path

import pytest

import eval_retrieval
import sweep
from context_i2w.evaluation import sweep as sweeping
from context_i2w.evaluation.sweep import FAMILIES, PLAIN, choice
from context_i2w.model.queries import parse_method

GOLDEN = Path(__file__).parents[1] / "golden"
SEARLE = ["--resume", str(GOLDEN / "phi" / "searle_phi_last.pt")]
SEARLE += ["--pretrained", str(GOLDEN / "clip_small_weights.safetensors"), "--device", "cpu"]


def test_every_weight_tried_is_a_method():
    for family in FAMILIES.values():
        assert [parse_method(method).name for method in family] == list(family)


def test_the_rule_takes_the_best_mean_and_of_equals_the_first(monkeypatch):
    families = {"anchored": ("anchored:0.1", "anchored:0.2", "anchored:0.3"), "slerp": ("slerp:0.5",)}
    monkeypatch.setattr(sweeping, "FAMILIES", families)
    scores = {"anchored:0.1": {"a": 30.0, "b": 10.0}, "anchored:0.2": {"a": 20.0, "b": 20.0}}
    scores |= {"anchored:0.3": {"a": 10.0, "b": 29.0}, "slerp:0.5": {"a": 50.0, "b": 50.0}}
    found = choice(scores, {"data_root": "x"})
    assert found["families"]["anchored"]["single"] == found["single"] == "anchored:0.1"
    assert found["families"]["anchored"]["by_benchmark"] == {"a": "anchored:0.1", "b": "anchored:0.3"}
    assert found["scores"]["anchored:0.3"]["mean"] == 19.5


def test_chosen_here_and_applied_elsewhere(tmp_path, monkeypatch, capsys, golden_data):
    here = [*SEARLE, "--data-root", str(golden_data)]
    few = {"anchored": ("anchored:0.1", "anchored:0.9"), "slerp": ("slerp:0.5", "slerp:0.8")}
    monkeypatch.setattr(sweeping, "FAMILIES", few)
    sweep.main([*here, "--benchmarks", "cirr", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "methods.json").read_text())
    assert found["chosen_on"]["data_root"] == str(golden_data)
    assert set(found["scores"]) == {*PLAIN, *few["anchored"], *few["slerp"]}
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert f"best single method: {found['families']['anchored']['single']}" in capsys.readouterr().out
    for mode, end in (("cirr", ": the very set that is evaluated now\n"), ("coco", "\n")):
        arguments = [*here, "--protocol", "ours", "--eval-mode", mode, "--methods", str(tmp_path / "methods.json")]
        eval_retrieval.main([*arguments, "--output", str(tmp_path / "out.json"), "--workers", "0"])
        shown = capsys.readouterr().out
        assert f"were chosen on {golden_data} (cirr){end}" in shown
        output = json.loads((tmp_path / "out.json").read_text())
        singles = [family["single"] for family in found["families"].values()]
        assert set(output["results"]["all"]) == {*PLAIN, *singles}
        assert output["methods_from"]["measures"] == {"cirr": "R@1"}
    score = found["scores"][singles[0]]["cirr"]
    eval_retrieval.main([*here, "--eval-mode", "cirr", "--methods", singles[0], "--output", str(tmp_path / "one.json")])
    assert json.loads((tmp_path / "one.json").read_text())["results"]["all"][singles[0]]["R@1"] == pytest.approx(score)


def test_two_processes_choose_what_one_does(tmp_path, mini_world):
    arguments = ["--resume", "toy", "--data-root", str(mini_world / "dev"), "--benchmarks", "cirr", "--device", "cpu"]
    for processes in ("1", "2"):
        more = ["--batch-size", "16", "--workers", "0", "--processes", processes]
        sweep.main([*arguments, *more, "--output", str(tmp_path / processes)])
    one, two = (json.loads((tmp_path / processes / "methods.json").read_text()) for processes in ("1", "2"))
    assert one == two


@pytest.mark.parametrize("content", ["{}", '{"chosen_on": 1, "families": {}}', '{"chosen_on": {}, "families": {}}'])
def test_a_file_that_is_none_of_ours(tmp_path, capsys, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SystemExit):
        eval_retrieval.main([*SEARLE, "--eval-mode", "cirr", "--methods", str(tmp_path / "x.json")])
    assert "--methods takes a file of scripts/sweep.py" in capsys.readouterr().err
