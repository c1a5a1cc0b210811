"""Whole tiny runs: stopped by signals and kill -9 and gone on with, on one process or two, with broken data."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from tests.made_pairs import sample, ten_faults, write_list, write_shard, write_shards, write_tiny_clip

from context_i2w.command_line import with_values
from context_i2w.distributed import launch
from context_i2w.errors import UserError
from context_i2w.training import run as training_run
from context_i2w.training.options import settings_of
from context_i2w.training.run import train
from context_i2w.training.trainer import Trainer

SMALL = {"depth": 1, "heads": 2, "head_width": 16, "hidden": 32, "gate": 0.3, "dropout": 0.1}
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The same sums in the same order in every process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list of 34 pairs, shards of the same number, and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("data")
    write_list(folder, 34)
    write_shards(folder / "shards", [9, 14, 11])
    write_tiny_clip(folder / "clip.safetensors")
    return folder


@pytest.fixture
def settings(folder, tmp_path):
    return settings_of(
        {
            "train_data": str(folder / "shards"),
            "model": "toy",
            "pretrained": str(folder / "clip.safetensors"),
            "mapper_option": SMALL,
            "epochs": 3,
            "batch_size": 8,
            "lr": 1e-3,
            "warmup": 2,
            "workers": 0,
            "logs": str(tmp_path / "logs"),
            "name": "run",
            "device": "cpu",
            "log_every": 1,
            "shuffle": 6,
        }
    )


def content(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)


def same_training(a: Path, b: Path) -> bool:
    """Whether mapper, optimiser and place in the run are the same, bit for bit."""
    a, b = content(a), content(b)
    states = [[c["mapper"]["state"], c["training"]["optimizer"]["state"]] for c in (a, b)]
    places = [
        {k: v for k, v in c["training"].items() if isinstance(v, int | str | dict) and k != "optimizer"} for c in (a, b)
    ]
    return places[0] == places[1] and all(map(torch.equal, *map(tensors, states)))


def tensors(tree) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return [tensor for value in values for tensor in tensors(value)]


def logged(run: Path, name: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line[name]) for line in lines if name in line]


def signal_at(monkeypatch, step: int, number: int) -> None:
    plain = Trainer.step

    def stepping(self, batch):
        if self.state.step == step:
            os.kill(os.getpid(), number)
        return plain(self, batch)

    monkeypatch.setattr(Trainer, "step", stepping)


@pytest.mark.parametrize(("data", "number"), [("shards", signal.SIGUSR1), ("pairs.tsv", signal.SIGTERM)])
def test_a_signal_saves_and_resuming_gives_the_same_bits(settings, folder, monkeypatch, capsys, data, number):
    settings = with_values(settings, train_data=str(folder / data))
    whole = train(with_values(settings, name="whole"))
    with monkeypatch.context() as patch:
        signal_at(patch, 5, number)
        assert train(settings) is None
    message = capsys.readouterr().err
    assert f"stopped by {signal.Signals(number).name} at step 6; go on with:" in message
    run = whole.parent / "run"
    assert re.search(rf"--resume {run}/checkpoints/last.pt", message)
    assert content(run)["training"]["step"] == 6
    with open(run / "metrics.jsonl", "a") as file:  # as if it had gone on a little before it was killed
        file.write('{"step": 7, "loss": 0.0}\n{"step": 8, "lo')
    assert train(with_values(settings, resume="auto")) == run
    assert same_training(run, whole)
    assert logged(run, "loss") == logged(whole, "loss")
    assert [step for step, _ in logged(run, "loss")] == list(range(1, 13))


def test_after_kill_9_resuming_gives_the_same_bits(settings, folder, tmp_path):
    """The run that is killed is a process of its own, saves at every step, and reads with a worker."""
    command = [sys.executable, str(REPOSITORY / "src" / "main.py"), "--train-data", settings.data.train_data]
    command += ["--model", "toy", "--pretrained", settings.model.pretrained, "--epochs", "6", "--batch-size", "8"]
    command += ["--lr", "1e-3", "--wd", "0.1", "--warmup", "2", "--workers", "1", "--device", "cpu", "--shuffle", "6"]
    command += ["--save-minutes", "0", "--log-every", "1", "--logs", settings.folder.logs, "--name", "run"]
    command += [word for name, value in SMALL.items() for word in ("--mapper-option", f"{name}={value}")]
    run = Path(settings.folder.logs) / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True) as process:
        metrics, deadline = run / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.is_file() and metrics.read_text().count("\n") > 7) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    step = content(run)["training"]["step"]
    assert 6 <= step < 24
    long = with_values(settings, epochs=6)
    train(with_values(long, resume=str(run)))
    whole = train(with_values(long, name="whole"))
    assert same_training(run, whole)


def test_two_processes_give_the_update_of_one_though_one_of_them_has_only_broken_pairs(settings, tmp_path):
    """In the second batch the second process has nothing left, in the third none has."""
    samples = [sample(n) for n in range(12)] + [ten_faults(1)[0]] * 12 + [ten_faults(n)[0] for n in range(24)]
    write_shard(tmp_path / "broken" / "0.tar", samples)
    settings = with_values(
        settings,
        train_data=str(tmp_path / "broken"),
        epochs=1,
        max_broken=1.0,
        mapper_option=SMALL | {"dropout": 0.0},
        shuffle=1,
    )
    one = train(with_values(settings, name="one"))
    two = launch(train, 2, with_values(settings, name="two", batch_size=4))
    assert two == one.parent / "two"
    a, b = content(one), content(two)
    assert a["training"]["broken"] == b["training"]["broken"]
    assert sum(a["training"]["broken"].values()) == 12 + 15
    assert [loss for _, loss in logged(two, "loss")] == pytest.approx(
        [loss for _, loss in logged(one, "loss")], abs=1e-5
    )
    for x, y in zip(tensors(a["mapper"]["state"]), tensors(b["mapper"]["state"]), strict=True):
        assert torch.allclose(x, y, atol=1e-5)


def test_a_global_batch_of_broken_pairs_changes_nothing(settings, tmp_path):
    write_shard(tmp_path / "b" / "0.tar", [{**sample(n), "jpg": b""} for n in range(16)])
    settings = with_values(settings, train_data=str(tmp_path / "b"), epochs=1, max_broken=1.0, accumulate=2)
    run = train(settings)
    assert content(run)["step"] == 2
    assert content(run)["training"]["optimizer"]["state"] == {}
    assert logged(run, "loss") == []
    assert logged(run, "broken_pairs") == [(2, 16)]
    strict = with_values(settings, name="strict", max_broken=0.1)
    with pytest.raises(UserError, match=r"16 of 16 training pairs were broken.*not an image that can be decoded: 16"):
        train(strict)


def test_a_thousand_corrupted_samples_of_ten_kinds(settings, tmp_path):
    """Training goes on, and each is counted."""
    counts = {}
    for number in range(1000):
        kind = ten_faults(number % 10)[1]
        counts[kind] = counts.get(kind, 0) + 1
    faulty = [ten_faults(number)[0] for number in range(10)] * 100
    for shard in range(10):
        write_shard(tmp_path / "f" / f"{shard}.tar", faulty[shard * 100 : (shard + 1) * 100] + [sample(shard)] * 2)
    loose = {"epochs": 1, "batch_size": 60, "max_broken": 0.99, "shuffle": 8192}
    run = train(with_values(settings, train_data=str(tmp_path / "f"), **loose))
    assert content(run)["training"]["broken"] == {kind: count for kind, count in counts.items() if kind}
    assert len(logged(run, "loss")) == 17


def test_other_data_batches_or_epochs_than_the_resumed_run_are_refused(settings, folder):
    run = train(settings)
    resume = with_values(settings, resume=str(run))
    for change, name in (
        ({"train_data": str(folder / "pairs.tsv")}, "give the same data"),
        ({"shuffle": 7}, "shuffled by 6, now it is .* shuffled by 7; give the same data, --shuffle"),
        ({"batch_size": 4}, "a global batch of 8, now it is 4; give the same --batch-size"),
        ({"epochs": 4}, "steps in all.* 12, now it is 16; give the same --epochs, or start anew"),
        ({"seed": 9}, "with seed 0, now it is 9; give the same --seed"),
        ({"mapper": "pic2word", "mapper_option": {}}, "give the same mapper"),
    ):
        with pytest.raises(UserError, match=name):
            train(with_values(resume, **change))


def test_a_run_is_not_overwritten_but_one_without_checkpoint_begins_anew(settings):
    run = Path(settings.folder.logs) / "run"
    run.mkdir(parents=True)
    with pytest.raises(UserError, match="exists already"):
        train(settings)
    (run / "config.json").write_text("{}")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 9}\n')
    assert train(settings) == run
    assert logged(run, "loss")[0][1] < 9
    with pytest.raises(UserError, match="exists already"):
        train(settings)


def test_validation_and_benchmarks_are_logged(settings, folder, monkeypatch):
    class Toy:
        load = staticmethod(lambda root: root)

    found = types.SimpleNamespace(metrics={"dress": {"composed": {"R@10": 1.0}}, "mean": {"composed": {"R@10": 2.0}}})
    monkeypatch.setattr(training_run, "BENCHMARKS", {"fashion": Toy})
    monkeypatch.setattr(training_run, "evaluate", lambda benchmark, clip, mappers, **_: found)
    run = train(
        with_values(
            settings, val_data=str(folder / "pairs.tsv"), evaluate_every=2, evaluate=("fashion",), data_root="data"
        )
    )
    assert logged(run, "fashion/R@10") == [(8, 2.0)]
    assert [step for step, _ in logged(run, "validation_loss")] == [4, 8, 12]
    with pytest.raises(UserError, match=r"evaluate 'cir': one of coco, .* is expected"):
        with_values(settings, evaluate=("cir",))


@pytest.mark.parametrize("precision", ["amp", "bf16"])
def test_lower_precision_on_the_cpu_is_close(settings, precision):
    exact = train(with_values(settings, epochs=1))
    rounded = train(with_values(settings, epochs=1, name="low", precision=precision, accumulate=2))
    first = [logged(run, "loss")[0][1] for run in (exact, rounded)]
    assert first[1] == pytest.approx(first[0], abs=0.1)
    assert first[1] != first[0]


def test_a_loss_that_is_not_a_number_stops_the_run_before_it_is_saved(settings, monkeypatch):
    monkeypatch.setattr(Trainer, "step", lambda self, batch: torch.tensor(float("nan")))
    with pytest.raises(UserError, match="the loss is nan"):
        train(with_values(settings, save_minutes=0.0))
    assert not list(Path(settings.folder.logs).glob("*/checkpoints/*"))


@pytest.mark.slow
def test_a_compiled_run_is_the_plain_one(settings):
    plain, compiled = (train(with_values(settings, epochs=1, name=name, compile=name == "c")) for name in ("p", "c"))
    losses = [[loss for _, loss in logged(run, "loss")] for run in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
