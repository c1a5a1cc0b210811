"""The real entry points on a miniature toy world: train, resume, evaluate, report; and their errors."""

import json

import pytest

import eval_retrieval
import main
from context_i2w.toy_world import Sizes, make_toy_world
from context_i2w.toy_world.pairs import FOLDER, TRAINING_LIST
from context_i2w.training import toy_run

FEW_STEPS = ["--epochs", "2", "--batch-size", "16", "--warmup", "2", "--log-every", "1", "--mapper-option", "depth=1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_toy_world(tmp_path_factory.mktemp("world") / "toy", sizes=Sizes.mini(), workers=1)


@pytest.fixture
def here(tmp_path, monkeypatch, world):
    """An empty working folder whose toy world is the miniature one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(toy_run, "make_toy_world", lambda root: world)
    return tmp_path


def losses(run):
    return [
        entry["loss"]
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if "loss" in (entry := json.loads(line))
    ]


def test_without_arguments_it_trains_evaluates_and_reports_the_same_twice(here, capsys):
    for name in ("one", "two"):
        main.main([*FEW_STEPS, "--name", name, "--device", "cpu"])
    out = capsys.readouterr().out
    assert out.startswith("toy world:")
    assert "--train-data" in out.splitlines()[0]
    one, two = here / "logs" / "one", here / "logs" / "two"
    assert losses(one) == losses(two)
    assert json.loads((one / "config.json").read_text())["train"]["batch_size"] == 16
    report = (one / "report.md").read_text()
    for task in toy_run.TASKS:
        assert f"]({task}.png)" in report
        assert (one / f"{task}.png").stat().st_size > 10_000
        results = [json.loads((run / f"{task}.json").read_text())["results"] for run in (one, two)]
        assert {"image", "text", "image+text", "composed"} == set(next(iter(results[0].values())))
        assert results[0] == results[1]
    assert (one / "loss.png").is_file()
    assert list(one.glob("events.out.tfevents.*"))


def test_a_list_trains_resumes_and_is_evaluated_by_the_script(here, world, capsys):
    arguments = ["--train-data", str(world / FOLDER / TRAINING_LIST), "--model", "toy", *FEW_STEPS]
    arguments += ["--device", "cpu", "--workers", "0", "--mapper", "pic2word"]
    arguments.remove("--mapper-option")
    arguments.remove("depth=1")
    main.main([*arguments, "--name", "whole"])
    whole = losses(here / "logs" / "whole")
    main.main([*arguments, "--name", "cut"])
    first_epoch = here / "logs" / "cut" / "checkpoints" / "epoch_1.pt"
    main.main([*arguments, "--resume", str(first_epoch)])
    assert losses(here / "logs" / "cut") == whole
    capsys.readouterr()
    eval_retrieval.main(
        ["--eval-mode", "cirr", "--data-root", str(world / "test"), "--device", "cpu", "--output", "out.json"]
    )
    assert "the newest run" in capsys.readouterr().out
    content = json.loads((here / "out.json").read_text())
    assert content["benchmark"] == "cirr"
    assert "R_subset@1" in content["results"]["all"]["composed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mapper", "pic3word"], "--mapper pic3word: unknown; known are context-i2w, pic2word"),
        (["--train-data", "nowhere.csv"], "nowhere.csv: no such list"),
        (["--mapper-option", "dept=2"], "has no option dept"),
        (["--resume", "auto"], "no run with a checkpoint"),
        (["--epochs", "two"], "invalid int value"),
    ],
)
def test_bad_input_is_one_line_and_status_2(here, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main.main(["--device", "cpu", "--model", "toy", *arguments])
    assert stop.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1
    assert message in error[0]


def test_an_existing_run_is_not_overwritten(here, world, capsys):
    (here / "logs" / "mine").mkdir(parents=True)
    with pytest.raises(SystemExit):
        main.main(["--name", "mine", "--device", "cpu", *FEW_STEPS])
    assert "exists already" in capsys.readouterr().err
