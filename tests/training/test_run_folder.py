"""The run's folder: metrics that resuming cuts back, checkpoints, signals, Weights & Biases when asked."""

import json
import os
import signal
import sys
import types

import pytest
import torch

from context_i2w.checkpoints.find import checkpoint_to_resume, newest_checkpoint
from context_i2w.errors import UserError
from context_i2w.training.options import FolderOptions
from context_i2w.training.run_folder import RunFolder, StopSignal, ended_before_its_first_checkpoint


def steps(path) -> list[int]:
    return [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_resuming_drops_what_will_be_run_again_and_a_line_cut_off_by_a_kill(tmp_path):
    run = RunFolder(tmp_path / "run", {"a": 1}, None)
    for step in range(1, 6):
        run.log(step, loss=1.0 / step)
    run.close()
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    resumed = RunFolder(run.path, {"a": 2}, 3)
    resumed.log(4, loss=0.5)
    resumed.close()
    assert steps(run.path) == [1, 2, 3, 4]
    assert json.loads((run.path / "config.json").read_text()) == {"a": 1}


def test_the_newest_epochs_are_kept_and_last_is_the_newest_of_all(tmp_path):
    run = RunFolder(tmp_path / "logs" / "run", {}, None)
    assert ended_before_its_first_checkpoint(run.path)
    for epoch in range(1, 13):
        run.save({"epoch": torch.tensor(epoch)}, epoch, keep=2)
    assert {path.name for path in run.checkpoints.iterdir()} == {"epoch_11.pt", "epoch_12.pt", "last.pt"}
    run.save({"epoch": torch.tensor(99)})
    assert torch.load(run.checkpoints / "last.pt")["epoch"] == 99
    assert torch.load(run.checkpoints / "epoch_12.pt")["epoch"] == 12
    assert not ended_before_its_first_checkpoint(run.path)
    run.close()
    assert newest_checkpoint(tmp_path / "logs") == run.checkpoints / "last.pt"
    for name in ("auto", str(run.path), str(run.checkpoints / "last.pt")):
        assert checkpoint_to_resume(name, tmp_path / "logs") == run.checkpoints / "last.pt"
    with pytest.raises(UserError, match="no run with a checkpoint"):
        checkpoint_to_resume("auto", tmp_path)
    with pytest.raises(UserError, match=r"--resume lgos/b: no such run or checkpoint; auto takes the newest run under"):
        checkpoint_to_resume("lgos/b", tmp_path / "logs")


def test_a_checkpoint_that_fails_halfway_leaves_the_old_one(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run", {}, None)
    path = run.save({"step": 1})

    def full_disk(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match="No space"):
        run.save({"step": 2})
    monkeypatch.undo()
    assert torch.load(path) == {"step": 1}
    assert [file.name for file in run.checkpoints.iterdir()] == ["last.pt"]
    run.close()


def test_without_hard_links_the_last_checkpoint_is_a_copy(tmp_path, monkeypatch):
    def no_links(*paths):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    run = RunFolder(tmp_path / "run", {}, None)
    run.save({"step": 1}, epoch=1)
    assert torch.load(run.checkpoints / "last.pt") == {"step": 1}
    run.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_remembered_and_a_second_interrupt_ends_at_once(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == signal.Signals(number).name
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.Signals(number).name
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


def test_scalars_go_to_weights_and_biases_when_asked(tmp_path, monkeypatch):
    logged = []
    tracker = types.SimpleNamespace(
        log=lambda scalars, step: logged.append((step, scalars)), finish=lambda: logged.append("finished")
    )
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: logged.append(options) or tracker
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = RunFolder(tmp_path / "run", {"lr": 1}, None, wandb="i2w")
    run.log(3, **{"loss": 1.0, "cirr/R@1": 20.0})
    run.close()
    assert logged[0]["project"] == "i2w"
    assert logged[0]["id"] == "run"
    assert logged[0]["config"] == {"lr": 1}
    assert logged[1:] == [(3, {"train/loss": 1.0, "cirr/R@1": 20.0}), "finished"]


def test_weights_and_biases_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        RunFolder(tmp_path / "run", {}, None, wandb="i2w")


@pytest.mark.parametrize("key", ["logs", "name"])
def test_a_folder_that_tensorboard_can_not_name_is_refused(key):
    with pytest.raises(UserError, match="UTF-8"):
        FolderOptions(**{key: "a\udc80"})


def test_an_epochs_end_that_comes_again_is_logged_once(tmp_path):
    folder = RunFolder(tmp_path / "run", {}, None)
    folder.log(24, loss=0.5)
    folder.log(24, epoch_loss=0.4)
    folder.close()
    for within, kept in ((False, 2), (True, 1)):
        RunFolder(tmp_path / "run", {}, 24, within_epoch=within).close()
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == kept
