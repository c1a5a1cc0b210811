"""What an evaluation needs before it starts: processes, the device, the checkpoints, their CLIP, the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from context_i2w.checkpoints.files import Checkpoint
from context_i2w.checkpoints.find import checkpoint_to_resume, find_checkpoint, newest_checkpoint, shipped_checkpoints
from context_i2w.checkpoints.shared import WEIGHTS
from context_i2w.distributed import joined, launch, started_by_launcher
from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import BASELINES, ONLY
from context_i2w.evaluation.options import DeviceChoice
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.clip_weights import TOY_MODEL, load_clip
from context_i2w.model.mappers import Mapper

LOGS = Path("logs")
DATA_ROOT = Path("data")
TOY_ROOT = DATA_ROOT / "toy"


@dataclass(frozen=True)
class Models:
    """One CLIP and the mappers that belong to it, by name; `about` describes them for the JSON."""

    clip: FrozenCLIP
    mappers: dict[str, Mapper]
    about: dict[str, Any]


def in_processes(machine: DeviceChoice, work: Callable[..., None], *args: Any) -> None:
    """Runs `work(*args, process)` in the number of processes asked for, or as one of torchrun's. Raises UserError."""
    if machine.processes == 1 or started_by_launcher():
        _joined(machine, work, args)
    elif launch(_joined, machine.processes, machine, work, args) is None:
        raise KeyboardInterrupt


def _joined(machine: DeviceChoice, work: Callable[..., None], args: Sequence[Any]) -> bool:
    """True at the end."""
    with joined(device_asked(machine)) as process:
        work(*args, process)
    return True


def device_asked(machine: DeviceChoice) -> str | None:
    """What `distributed.join` takes. Raises UserError for a GPU that is not there."""
    gpu, count = machine.gpu, torch.cuda.device_count()
    if gpu is None:
        return machine.device
    if gpu >= count:
        there = f"the GPUs are numbered 0 to {count - 1}" if count else "this machine has no GPU that torch can use"
        raise UserError(f"--gpu {gpu}: {there}; leave out --gpu")
    return f"cuda:{gpu}"


def choose_checkpoints(resume: Sequence[str] | None, shipped: int = 1) -> list[Path]:
    """The files named, else the newest run's, else so many shipped toy checkpoints; says which it took."""
    if resume:
        return [checkpoint_to_resume(path, LOGS) if path == "auto" else Path(path) for path in dict.fromkeys(resume)]
    newest = newest_checkpoint(LOGS)
    paths = [newest] if newest else shipped_checkpoints()[:shipped]
    origin = "the newest run's checkpoint" if newest else "what is shipped for the toy world"
    print(f"no --resume: {origin} is taken, {', '.join(map(str, paths))}")
    return paths


def load_models(
    paths: Sequence[Path], model: str | None, pretrained: str | None, device: torch.device, trust_code: bool = False
) -> Models:
    """The mappers of the checkpoints and their common CLIP; without checkpoints, CLIP alone, OpenAI's if none is named.

    Raises UserError if their CLIPs differ.
    """
    checkpoints = [find_checkpoint(path, trust_code) for path in paths]
    load = checkpoints[0].load_clip if checkpoints else load_clip
    clip = load(model, pretrained if checkpoints else pretrained or "openai", device)
    for other in checkpoints[1:]:
        if not other.belongs_to(clip, model, pretrained):
            first = checkpoints[0].path
            raise UserError(f"{other.path} belongs to another CLIP than {first}; evaluate them one by one")
    rows = row_names([checkpoint.path for checkpoint in checkpoints])
    mappers = {row: c.build_mapper(clip.sizes).to(device) for row, c in zip(rows, checkpoints)}
    about = {
        "checkpoints": {row: _about(c) for row, c in zip(rows, checkpoints)},
        "clip": {"name": clip.name, "sha256": clip.weights_hash, **clip.identity.configuration},
    }
    return Models(clip, mappers, about)


def row_names(paths: Sequence[Path]) -> list[str]:
    """`composed` for one checkpoint; for several their names, with run or whole path where they clash."""
    if len(paths) == 1:
        return [ONLY]
    paths = [path.parent if path.name == WEIGHTS else path for path in paths]
    short = [path.stem for path in paths]
    in_run = [f"{path.parent.parent.name}/{path.stem}" for path in paths]
    for names in (short, in_run):
        if len(set(names)) == len(names) and not set(names) & {*BASELINES, ONLY}:
            return names
    return [str(path) for path in paths]


def choose_data_root(data_root: str | None, clip: FrozenCLIP) -> Path:
    """The folder named, else data/; for the toy CLIP the toy world's test set, drawn if it is not there."""
    if data_root is not None:
        return Path(data_root)
    if clip.name != TOY_MODEL:
        return DATA_ROOT
    from context_i2w.toy_world import make_toy_world  # needed by no one who has data

    make_toy_world(TOY_ROOT)
    return TOY_ROOT / "test"


def choose_protocol(asked: str | None, models: Models) -> str:
    """The one asked for, else the one that all checkpoints' files tell, else ours; says what φ's files leave open."""
    if asked:
        return asked
    told = {about["protocol"] for about in models.about["checkpoints"].values()}
    for about in models.about["checkpoints"].values():
        if (about["mapper"], about["format"], about["protocol"]) == ("phi", "published", None):
            print(f"{about['path']} does not say whether it is SEARLE's or LinCIR's: give --protocol; ours is taken")
    return (told.pop() if len(told) == 1 else None) or "ours"


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "path": str(checkpoint.path),
        "sha256": checkpoint.file_hash,
        "format": checkpoint.source,
        "mapper": checkpoint.mapper_name,
        "protocol": checkpoint.protocol,
        "step": checkpoint.step,
    }
