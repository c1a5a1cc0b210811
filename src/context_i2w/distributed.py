"""Processes of one command: who am I, share out and gather, one process writes. Works without a process group too."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from context_i2w.errors import UserError, naming_dead_readers, one_line

T = TypeVar("T")
START = "spawn"  # how processes begin; the tests' begin from one that has imported torch already
POLL = 0.1  # seconds between two looks at what the processes report
GRACE = 5.0  # seconds that the other processes have to end by themselves when one has failed
SOON = 3.0  # seconds that are left to others: to be the first to end, or to report


@dataclass(frozen=True)
class Process:
    """This process among all of the run."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    here: int = 1  # processes on this machine

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items: every one of them is in one process's part."""
        return items[self.rank :: self.world]

    def complete(self, rows: Tensor, own: Sequence[int] | Tensor) -> None:
        """Fills the rows [n, ...] that other processes have with theirs; `own`: the numbers of those that are ours."""
        if self.world > 1:
            numbers = torch.as_tensor(own, dtype=torch.long, device=rows.device)
            for places, part in zip(_parts(numbers), _parts(rows[numbers])):
                rows[places] = part

    def everyone(self, value: T) -> list[T]:
        """The (small, picklable) values of all processes, in order of rank."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def by_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, in all of them; they raise its UserError too."""
        if self.world == 1:
            return compute()
        told: list[Any] = [None]
        if self.is_first:
            try:
                told = [(compute(), None)]
            except UserError as error:
                told = [(None, UserError(str(error)))]
        dist.broadcast_object_list(told, 0)
        result, failure = told[0]
        if failure:
            raise failure
        return result


def join(device: str | None = None) -> Process:
    """This process, in its process group if torchrun, SLURM or `launch` started several.

    device: what the user asked for; None takes the process's own GPU where there is one, else the CPU.
    Raises UserError for a device that is not there, and an environment that names processes but not this one's place.
    """
    world, rank, local_rank = _place()
    device = device or _default_device()
    if world > 1 and ":" in device:
        raise UserError(f"--device {device}: each of {world} processes takes a GPU of its own; leave its number out")
    if device == "cuda" and local_rank >= (count := torch.cuda.device_count()) > 0:
        here = f"this machine has {count} GPU{'s' * (count > 1)}, process {local_rank + 1} needs one of its own"
        raise UserError(f"{here}; lower --processes, or give --device cpu")
    chosen = device_named(f"cuda:{local_rank}" if device == "cuda" else device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world > 1:  # others may wait for hours while the first process caches features
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(days=1))
    return Process(rank, world, chosen, int(os.environ.get("LOCAL_WORLD_SIZE", world)))


@contextlib.contextmanager
def joined(device: str | None = None) -> Iterator[Process]:
    """As `join`, for as long as the block runs; what processes other than the first print goes nowhere.

    Of those that fail by a UserError one raises it, which is enough. A reading process that died is one too.
    """
    process = join(device)
    try:
        with naming_dead_readers(), open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
            if not process.is_first:
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            yield process
    except UserError:
        if process.world > 1 and not _is_first_to_fail():
            time.sleep(SOON)
            sys.exit(2)
        raise
    finally:
        leave()


def _is_first_to_fail() -> bool:
    try:
        return dist.distributed_c10d._get_default_store().add("failed", 1) == 1
    except RuntimeError:  # the store's process has ended: it was not
        return False


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_named(device: str | torch.device | None) -> torch.device:
    """None: a GPU if there is one. Raises UserError if this machine has no such device."""
    name = _default_device() if device is None else str(device)
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, ValueError) as error:
        shown = name if name.isprintable() else repr(name)
        reason = one_line(error).partition(". ")[0][:300]
        raise UserError(f"device {shown[:80]}: {reason}; leave it out, or give cpu") from None


def _place() -> tuple[int, int, int]:
    """(world, rank, local rank) of a launcher's environment; (1, 0, 0) without. Raises UserError if half is told."""
    names = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    told = {name: os.environ.get(name, default) for name, default in names.items()}
    world, rank, local = (int(told[name]) if told[name].isdecimal() else -1 for name in names)
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if world > 1 and name not in os.environ]
    if missing or not 0 <= rank < world or local < 0:
        values = ", ".join(f"{name}={value!r:.40}" for name, value in told.items() if name in os.environ)
        lacks = f" but no {', '.join(missing)}" if missing else ""
        raise UserError(f"the environment has {values}{lacks}; start with torchrun, or unset WORLD_SIZE and RANK")
    return world, rank, local


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def launch(run: Callable[..., Any], processes: int, *args) -> Any:
    """Runs `run(*args)` in so many processes of this machine and returns what the first of them returns.

    A process that fails ends the others, and its error is raised here, a UserError as such. SIGINT and SIGTERM are
    passed on, for the processes to end by themselves; None is returned if they had not begun yet.
    """
    queue = mp.get_context(START).SimpleQueue()
    started = start_processes(
        _started, (run, processes, _free_port(), queue, args), processes, join=False, start_method=START
    )
    failure: Exception | None = None
    with _passing_signals_on(started.processes) as passed, _collected(queue) as reports:
        try:
            while not started.join(grace_period=GRACE):
                pass
        except (ProcessRaisedException, ProcessExitedException) as error:
            failure = error
    if failure is None:
        [result] = reports
        return result
    if passed:
        return None
    raise _cause(failure, reports) from None


def started_by_launcher() -> bool:
    """Whether torchrun or SLURM's script has set up the processes already."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def gather_with_gradient(local: Tensor) -> Tensor:
    """The rows [B, …] of all processes, in order of rank: [ΣB, …]. Gradients reach this process's own rows.

    Every process computes the same loss over the whole global batch, so the gradient of its own rows is whole; the
    others' rows get theirs in their own processes. Processes may hold different numbers of rows.
    """
    if not dist.is_initialized():
        return local
    parts = _parts(local.detach())
    parts[dist.get_rank()] = local
    return torch.cat(parts)


def _parts(local: Tensor) -> list[Tensor]:
    """The rows of all processes, which may hold different numbers of them, in order of rank."""
    sizes = [torch.zeros(1, dtype=torch.long, device=local.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(local)], device=local.device))
    counts = [int(size) for size in sizes]
    padded = local.new_zeros(max(counts), *local.shape[1:])
    padded[: len(local)] = local
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return [part[:count] for part, count in zip(gathered, counts, strict=True)]


def _started(rank: int, run: Callable[..., Any], processes: int, port: int, reports: Any, args: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(max(torch.get_num_threads() // processes, 1))
    try:
        result = run(*args)
    except UserError as error:
        _fail(reports, error, 2)
    except Exception:
        _fail(reports, RuntimeError(f"process {rank} of {processes} failed:\n{traceback.format_exc()}"), 1)
    if rank == 0:
        reports.put(result)


def _fail(reports: Any, error: Exception, status: int) -> NoReturn:
    """Reports and ends without tidying up, which can take long when others wait for this process."""
    reports.put(error)
    os._exit(status)


@contextlib.contextmanager
def _collected(queue: Any) -> Iterator[list[Any]]:
    """What processes report, read while they run: one with more to say than a pipe holds ends when it is read.

    By a thread, which is left behind if a process was killed amid a report: its end would be waited for in vain.
    """
    reports: list[Any] = []
    over = threading.Event()

    def collect() -> None:
        ended = False
        while not ended:
            ended = over.wait(POLL)  # looked at before the queue, so that nothing is left in it
            while not queue.empty():
                reports.append(queue.get())

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        yield reports
    finally:
        over.set()
        thread.join(SOON)


def _cause(error: Exception, reports: Iterable[Any]) -> Exception:
    """What to raise for a failed process: its own report came first, then those of others that missed it."""
    if isinstance(error, ProcessExitedException) and error.exit_code < 0:
        return UserError(f"process {error.error_index} was ended by {error.signal_name}; if nobody did, memory ran out")
    failures = (report for report in reports if isinstance(report, Exception))  # not what the first process returned
    return next(failures, error)


@contextlib.contextmanager
def _passing_signals_on(processes: list) -> Iterator[list[int]]:
    """Hands SIGINT and SIGTERM to the processes; the list fills with those received."""
    received: list[int] = []

    def pass_on(number: int, _) -> None:
        received.append(number)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
