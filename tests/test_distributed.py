"""Processes of one machine: their results and errors, what they exchange, signals passed on."""

import multiprocessing
import os
import signal
import struct
import threading
import time

import pytest
import torch

from context_i2w import distributed
from context_i2w.distributed import Process, device_named, gather_with_gradient, join, launch, leave
from context_i2w.errors import UserError


def test_without_a_group_everything_is_one_process():
    process = Process()
    assert process.is_first
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(rows) is rows
    assert process.everyone("x") == ["x"]
    leave()


def exchange(path: str) -> list:
    process = join("cpu")
    rows = torch.full((process.rank * 2, 3), float(process.rank), requires_grad=True)  # none in the first process
    gathered = gather_with_gradient(rows)
    (gathered * torch.arange(6.0).view(2, 3)).sum().backward()
    torch.save((gathered.detach(), rows.grad), f"{path}/{process.rank}.pt")
    everyone = process.everyone({"rank": process.rank})
    leave()
    return everyone


def test_processes_gather_rows_of_different_numbers_and_the_first_ones_result_returns(tmp_path):
    assert launch(exchange, 2, str(tmp_path)) == [{"rank": 0}, {"rank": 1}]
    (all0, grad0), (all1, grad1) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(all0, torch.ones(2, 3))
    assert torch.equal(all1, all0)
    assert grad0.shape == (0, 3)
    assert torch.equal(grad1, torch.arange(6.0).view(2, 3))


def large() -> bytes:
    return bytes(1 << 20)


def test_a_result_larger_than_a_pipe_holds_returns():
    assert launch(large, 2) == large()  # waited for ever when it was read after the processes' end


def test_a_report_that_a_kill_cut_off_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(distributed, "SOON", 0.3)
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    queue.put("whole")
    os.write(queue._writer.fileno(), struct.pack("!i", 100) + b"cut off")
    with distributed._collected(queue) as reports:
        pass
    assert reports == ["whole"]


def fail(kind: str) -> None:
    process = join("cpu")
    if process.rank == 1:
        raise UserError("a.csv: is missing") if kind == "user" else ValueError("odd value")
    process.everyone("waits for the other, in vain")


@pytest.mark.parametrize(
    ("kind", "error", "message"), [("user", UserError, "a.csv: is missing"), ("bug", RuntimeError, "odd value")]
)
def test_a_failing_process_ends_the_others_with_its_message(kind, error, message):
    with pytest.raises(error, match=message):
        launch(fail, 2, kind)


def wait_for_signal(folder: str) -> str:
    received = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    open(f"{folder}/{os.environ['RANK']}", "w").close()
    while not received:
        time.sleep(0.05)
    return signal.Signals(received[0]).name


def test_a_signal_to_the_launcher_reaches_the_processes(tmp_path):
    def interrupt():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert launch(wait_for_signal, 2, str(tmp_path)) == "SIGTERM"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE='2' but no RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "but no MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE='x'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"RANK": "3"}, "RANK='3'"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK='-1'"),
    ],
)
def test_an_environment_that_names_half_of_a_launch_is_refused(monkeypatch, environment, said):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        join("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="this machine has 1 GPU, process 2 needs one of its own; lower --processes"):
        join("cuda")


@pytest.mark.parametrize("name", ["x", "", " ", "cuda:99", "1.5", "a" * 5000, "\udc80"])
def test_a_device_that_is_not_there_is_one_short_line(name):
    with pytest.raises(UserError) as error:
        device_named(name)
    assert str(error.value).startswith("device ")
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_a_result_that_came_before_a_failure_is_not_its_cause():
    reports = [True, UserError("no room")]
    assert str(distributed._cause(RuntimeError("process 1 failed"), reports)) == "no room"
