"""Seconds, rates and memory, measured so that a busy machine disturbs all ways alike."""

import contextlib
import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarking.options import MeasureOptions
from context_i2w.distributed import device_named

MATMUL = "matrix product"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start(asked: MeasureOptions) -> torch.device:
    """The device asked for, with as many threads as asked for."""
    if asked.threads:
        torch.set_num_threads(asked.threads)
    return device_named(asked.device)


def alternate(ways: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each way over `repeats` rounds in which every way runs once; all have run before."""
    clock = clock_for(device)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, compute in ways.items():
            gc.collect()
            synchronise(device)
            started = clock()
            compute()
            synchronise(device)
            seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def clock_for(device: torch.device) -> Callable[[], float]:
    """Wall time; with one thread on the CPU that thread's own time: what others run on the machine does not count."""
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul(size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Callable[[], Any], int]:
    """A square matrix product and its operations: the rate that a machine reaches at best."""
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    return lambda: left @ right, 2 * size**3


def added_memory(compute: Callable[[], Any], device: torch.device) -> int | None:
    """Most bytes held at once during `compute`, above what is held before; None where the system does not tell."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        compute()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # hands freed memory back, so that it is not counted as held
        CLEAR.write_text("5")  # the peak starts at what is held now
        before = status("VmRSS")
        compute()
        return status("VmHWM") - before
    except OSError:
        return None


def status(field: str) -> float:
    """Bytes of this process, of which the system tells in a file (Linux); NaN without."""
    lines = STATUS.read_text().splitlines() if STATUS.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), math.nan)


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers belong to."""
    name = "unknown"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"name": name, "device": device.type, "threads": torch.get_num_threads(), "torch": torch.__version__}
