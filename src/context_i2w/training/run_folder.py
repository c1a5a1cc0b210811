"""The folder of one training run: its configuration, scalars and checkpoints."""

import contextlib
import json
import math
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from context_i2w.checkpoints.files import save_atomically
from context_i2w.checkpoints.find import LAST
from context_i2w.errors import UserError, extra
from context_i2w.files import atomic_path, locked, write_text
from context_i2w.training.options import CONFIG

with extra("train"):  # said here, before any work
    from torch.utils.tensorboard import SummaryWriter


class RunFolder:
    """`logs/<run>/` with config.json, metrics.jsonl, TensorBoard's events and checkpoints/."""

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        resumed_step: int | None,
        wandb: str | None = None,
        room: int = 0,
        within_epoch: bool = False,
    ):
        """config: written to config.json; resumed_step: None for a new run; wandb: project of Weights & Biases.

        room: bytes that the disk must have left. within_epoch: the end of the resumed step's epoch is still to come.
        """
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path).free
        if free < room:
            left, needed = f"{free / 1e6:,.1f} MB left on its disk", f"a checkpoint takes {room / 1e6:,.1f}"
            raise UserError(f"{path}: {left}, {needed}; make room")
        self.lock = contextlib.ExitStack()  # held while the run goes on, released with the process
        busy = f"{path}: another process is training there; wait for it, or give another --name"
        self.lock.enter_context(locked(path / ".lock", busy))
        self._forget_after(resumed_step or 0, within_epoch)
        if resumed_step is None:
            write_text(path / CONFIG, json.dumps(config, indent=2, default=str) + "\n")
        self.metrics = open(path / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115 (open for the whole run)
        self.writer = SummaryWriter(str(path), purge_step=resumed_step)
        self.tracker = open_wandb(wandb, path, config) if wandb else None

    def log(self, step: int, **scalars: float) -> None:
        """One line of metrics.jsonl and the same scalars for TensorBoard and, if asked for, Weights & Biases."""
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self.metrics.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        named = {name if "/" in name else f"train/{name}": value for name, value in scalars.items()}
        for name, value in named.items():
            self.writer.add_scalar(name, value, step)
        if self.tracker:
            self.tracker.log(named, step=step)

    def save(self, content: Mapping[str, Any], epoch: int | None = None, keep: int = 0) -> Path:
        """Writes checkpoints/last.pt and, at an epoch's end, epoch_N.pt; of those the newest `keep` stay (0: all)."""
        path = self.checkpoints / (LAST if epoch is None else f"epoch_{epoch}.pt")
        save_atomically(content, path)
        if epoch is not None:
            self._link_last(path)
            epochs = sorted(self.checkpoints.glob("epoch_*.pt"), key=lambda old: int(old.stem.removeprefix("epoch_")))
            for old in epochs[:-keep] if keep else ():
                old.unlink()
        return path

    def close(self) -> None:
        self.metrics.close()
        self.writer.close()
        self.lock.close()
        if self.tracker:
            self.tracker.finish()

    def _link_last(self, path: Path) -> None:
        """last.pt becomes another name of the same file: no second copy on disk."""
        with atomic_path(self.checkpoints / LAST) as temporary:
            temporary.unlink()
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)

    def _forget_after(self, step: int, within_epoch: bool) -> None:
        """Drops the lines of steps, and of the epoch's end at this very step, that will be run again."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text(errors="replace").splitlines() if _step(line) <= step]
            lines = [line for line in lines if not (within_epoch and _step(line) == step and '"epoch_loss"' in line)]
            write_text(path, "".join(line + "\n" for line in lines))


def open_wandb(project: str, path: Path, config: Mapping[str, Any]) -> Any:
    """A run of Weights & Biases that bears the folder's name, gone on with if there is one.

    Raises UserError if the package is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("--wandb: the package is not installed; `pip install wandb`, or leave --wandb out") from None
    return wandb.init(project=project, name=path.name, id=path.name, dir=str(path), config=dict(config), resume="allow")


class StopSignal:
    """Remembers Ctrl-C, SIGTERM or SIGUSR1: the step ends and the run is saved. A second Ctrl-C ends at once."""

    def __init__(self):
        self.received: str | None = None
        self.interrupts = 0

    def __enter__(self) -> "StopSignal":
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _) -> None:
        self.interrupts += number == signal.SIGINT
        if self.interrupts == 2:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name


def ended_before_its_first_checkpoint(run: Path) -> bool:
    """Whether the folder holds a run with nothing to go on from, so that it may begin anew there."""
    return (run / CONFIG).is_file() and not (run / "checkpoints" / LAST).exists()


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):  # cut off in the middle by a kill, or damaged
        return float("inf")
