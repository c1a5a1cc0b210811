"""The folder of one training run: its configuration, scalars and checkpoints."""

import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from context_i2w.checkpoints import save_atomically
from context_i2w.errors import UserError

LAST = "last.pt"


class RunFolder:
    """`logs/<run>/` with config.json, metrics.jsonl, TensorBoard's events and checkpoints/."""

    def __init__(self, path: Path, config: Mapping[str, Any], resumed_step: int | None):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        if resumed_step is None:
            (path / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
        else:
            self._forget_after(resumed_step)
        self.metrics = open(path / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115 (open for the whole run)
        self.writer = SummaryWriter(str(path), purge_step=resumed_step)

    def log(self, step: int, **scalars: float) -> None:
        """One line of metrics.jsonl and the same scalars for TensorBoard."""
        self.metrics.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self.writer.add_scalar(f"train/{name}", value, step)

    def save(self, content: Mapping[str, Any], epoch: int | None = None, keep: int = 0) -> Path:
        """Writes checkpoints/last.pt and, at an epoch's end, epoch_N.pt; of those the newest `keep` stay (0: all)."""
        path = self.checkpoints / LAST
        if epoch is not None:
            path = self.checkpoints / f"epoch_{epoch}.pt"
        save_atomically(content, path)
        if epoch is not None:
            self._link_last(path)
            if keep:
                for old in sorted(self.checkpoints.glob("epoch_*.pt"), key=_epoch)[:-keep]:
                    old.unlink()
        return path

    def close(self) -> None:
        self.metrics.close()
        self.writer.close()

    def _link_last(self, path: Path) -> None:
        """last.pt becomes another name of the same file: no second copy on disk."""
        temporary = self.checkpoints / f".{LAST}.tmp"
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.replace(temporary, self.checkpoints / LAST)

    def _forget_after(self, step: int) -> None:
        """Drops the lines of steps that will be run again."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if _step(line) <= step]
            path.write_text("".join(line + "\n" for line in lines))


class StopSignal:
    """Remembers Ctrl-C or SIGTERM, so that the step ends and the run is saved; a second Ctrl-C ends at once."""

    def __init__(self):
        self.received: str | None = None

    def __enter__(self) -> "StopSignal":
        self._before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name


def newest_checkpoint(logs: Path) -> Path | None:
    """The last checkpoint of the run that was written to most recently, if there is any."""
    found = [path for path in logs.glob(f"*/checkpoints/{LAST}") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def checkpoint_to_resume(resume: str, logs: Path) -> Path:
    """The file meant by `--resume PATH|auto`; PATH may be a run's folder. Raises UserError if there is none."""
    if resume == "auto":
        path = newest_checkpoint(logs)
        if path is None:
            raise UserError(
                f"--resume auto: no run with a checkpoint under {logs}/; start one without --resume"
            )
        return path
    path = Path(resume)
    return path / "checkpoints" / LAST if path.is_dir() else path


def _epoch(path: Path) -> int:
    return int(re.fullmatch(r"epoch_(\d+)", path.stem)[1])


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # cut off in the middle by a kill
        return float("inf")
