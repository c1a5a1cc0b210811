"""Processes of one training run: who am I, gather features, one process writes. Works without a process group too."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor


@dataclass(frozen=True)
class Process:
    """This process among all of the run."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0


def join(device: str | None = None) -> Process:
    """This process, in its process group if torchrun, SLURM or `launch` started several.

    device: what the user asked for; None takes the process's own GPU where there is one, else the CPU.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    if device is None:
        device = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world > 1:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(minutes=30))
    return Process(rank, world, chosen)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def launch(run: Callable[..., None], processes: int, *args) -> None:
    """Runs `run(*args)` in so many processes of this machine; one that fails ends the others, with its message."""
    port = _free_port()
    mp.start_processes(_started, args=(run, processes, port, args), nprocs=processes, start_method="spawn")


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
    sizes = [torch.zeros(1, dtype=torch.long, device=local.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(local)], device=local.device))
    counts = [int(size) for size in sizes]
    padded = local.new_zeros(max(counts), *local.shape[1:])
    padded[: len(local)] = local.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    parts = [part[:count] for part, count in zip(gathered, counts, strict=True)]
    parts[dist.get_rank()] = local
    return torch.cat(parts)


def sum_over_processes(values: list[float]) -> list[float]:
    """Element-wise sum of numbers over all processes."""
    if not dist.is_initialized():
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def _started(local_rank: int, run: Callable[..., None], processes: int, port: int, args: tuple) -> None:
    os.environ.update(
        RANK=str(local_rank),
        LOCAL_RANK=str(local_rank),
        WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    run(*args)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
