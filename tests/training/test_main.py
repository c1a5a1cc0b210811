"""The real entry points on a miniature toy world: train, resume, evaluate, report; and their errors."""

import json
import os

import pytest
import torch

import eval_retrieval
import main
from context_i2w.toy_world.pairs import FOLDER, TRAINING_LIST
from context_i2w.training import toy_run
from context_i2w.training.options import TOY_RECIPE, parse_settings

FEW_STEPS = ["--epochs", "2", "--batch-size", "16", "--warmup", "2", "--log-every", "1", "--mapper-option", "depth=1"]


@pytest.fixture
def here(tmp_path, monkeypatch, mini_world):
    """An empty working folder whose toy world is the miniature one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(toy_run, "make_toy_world", lambda root: mini_world)
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
    assert json.loads((one / "config.json").read_text())["batch_size"] == 16
    report = (one / "report.md").read_text()
    for task in toy_run.TASKS:
        assert f"]({task}.png)" in report
        assert (one / f"{task}.png").stat().st_size > 10_000
        results = [json.loads((run / f"{task}.json").read_text())["results"] for run in (one, two)]
        assert set(toy_run.METHODS) == set(next(iter(results[0].values())))
        assert results[0] == results[1]
    assert (one / "loss.png").is_file()
    assert list(one.glob("events.out.tfevents.*"))


def test_a_list_trains_resumes_and_is_evaluated_by_the_script(here, mini_world, capsys):
    arguments = ["--train-data", str(mini_world / FOLDER / TRAINING_LIST), "--model", "toy", *FEW_STEPS]
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
        ["--eval-mode", "cirr", "--data-root", str(mini_world / "test"), "--device", "cpu", "--output", "out.json"]
    )
    assert "the newest run" in capsys.readouterr().out
    content = json.loads((here / "out.json").read_text())
    assert content["benchmark"] == "cirr"
    assert "R_subset@1" in content["results"]["all"]["composed"]


def test_the_toy_world_under_another_clip(tmp_path):
    settings = parse_settings(["--model", "ViT-B/32", "--openai-pretrained"])
    filled = toy_run.toy_settings(settings, tmp_path)
    assert (filled.model.clip, filled.model.weights) == ("ViT-B/32", "openai")
    assert filled.data.feature_cache is None  # the toy CLIP's features are no use
    alone = toy_run.toy_settings(parse_settings(["--model", "ViT-B/32"]), tmp_path)
    assert (alone.model.weights, alone.data.feature_cache) == ("openai", None)
    usual = toy_run.toy_settings(parse_settings([]), tmp_path)
    assert usual.model.weights == "toy"
    assert usual.data.feature_cache.startswith(str(tmp_path / "features-"))


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


def test_an_existing_run_is_not_overwritten(here, mini_world, capsys):
    (here / "logs" / "mine").mkdir(parents=True)
    with pytest.raises(SystemExit):
        main.main(["--name", "mine", "--device", "cpu", *FEW_STEPS])
    assert "exists already" in capsys.readouterr().err


def test_a_runs_config_repeats_it_and_resuming_needs_nothing_else(here, mini_world):
    arguments = ["--train-data", str(mini_world / FOLDER / TRAINING_LIST), "--model", "toy", *FEW_STEPS]
    arguments += ["--device", "cpu", "--workers", "0", "--name", "first", "--accumulate", "2", "--keep", "0"]
    main.main(arguments)
    first = here / "logs" / "first"
    main.main(["--config", str(first / "config.json"), "--name", "again"])
    assert weights(here / "logs" / "again") == weights(first)
    (first / "checkpoints" / "last.pt").unlink()
    os.link(first / "checkpoints" / "epoch_1.pt", first / "checkpoints" / "last.pt")
    main.main(["--resume", str(first)])
    assert weights(first) == weights(here / "logs" / "again")
    about = json.loads((first / "config.json").read_text())["about"]
    assert about["global_batch"] == 16
    assert about["processes"] == 1
    assert len(about["clip"]["sha256"]) == 64


def weights(run):
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return {name: tensor.tolist() for name, tensor in content["mapper"]["state"].items()}


def test_a_config_is_checked_key_by_key(here, tmp_path, capsys):
    for text, message in (
        ("epoch = 3", "unknown key 'epoch'"),
        ('epochs = "3"', "epochs '3': a whole number is expected"),
        ("epochs = 0", "epochs 0: at least 1 is needed"),
        ("epochs = [", "can't be read as TOML"),
    ):
        (tmp_path / "run.toml").write_text(text)
        with pytest.raises(SystemExit):
            main.main(["--config", str(tmp_path / "run.toml")])
        assert message in capsys.readouterr().err


def test_flags_win_over_a_config(tmp_path):
    (tmp_path / "run.toml").write_text('epochs = 3\nlr = 1e-4\nevaluate = ["cirr"]\nmapper_option = {queries = 8}')
    settings = parse_settings(["--config", str(tmp_path / "run.toml"), "--lr", "0.5"])
    assert (settings.train.epochs, settings.optim.lr, settings.evaluation.tasks) == (3, 0.5, ("cirr",))
    assert settings.model.mapper_options == {"queries": 8}
    assert settings.train.batch_size == TOY_RECIPE["batch_size"]
    assert parse_settings(["--train-data", "x"]).train.batch_size == 128


@pytest.mark.parametrize(
    "words",
    ["--batch-size -1", "--epochs 0", "--batch-size 999999999999999999999",
     "--max-broken nan", "--keep -1", "--crops -1", "--workers 99999999999",
     "--accumulate 0", "--log-every 0", "--save-frequency 0", "--seed -1", "--lr inf", "--mapper-option depth=2.5",
     "--mapper-option heads=0", "--mapper-option queries=-1", "--mapper-option dropout=2", "--lr-multiplier gate=x"],
)  # fmt: skip
def test_numbers_that_nobody_means_are_refused_by_name(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_settings(words.split())
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {words.split()[0]}")
