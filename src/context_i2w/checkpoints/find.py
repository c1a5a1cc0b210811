"""Where a mapper comes from: a file, a run, a shared folder, the hub, or the ones that the repository ships."""

import os
import re
from pathlib import Path

from context_i2w.checkpoints.files import Checkpoint, read_checkpoint
from context_i2w.checkpoints.shared import WEIGHTS, from_pretrained, is_pretrained_folder
from context_i2w.errors import UserError
from context_i2w.model.clip_weights import TOY_FOLDER
from context_i2w.training.run_folder import LAST

_HUB_NAME = re.compile(r"[\w-]+/[\w.-]+(?<!\.pt)")


def find_checkpoint(source: str | os.PathLike) -> Checkpoint:
    """A checkpoint file, a training run's folder, one of `save_pretrained`, or the hub's "owner/name".

    Read, not yet built. Raises UserError if it is nothing of the kind.
    """
    path = Path(source)
    if path.is_file():
        return read_checkpoint(path)
    if is_pretrained_folder(path) or (not path.is_dir() and _HUB_NAME.fullmatch(str(source))):
        return from_pretrained(source)
    if not path.is_dir():
        return read_checkpoint(path)  # says that there is no such file
    last = path / "checkpoints" / LAST
    if last.is_file():
        return read_checkpoint(last)
    if path.resolve() == TOY_FOLDER and shipped_checkpoints():
        return find_checkpoint(shipped_checkpoints()[0])
    files = sorted(path.glob("*.pt"))
    if len(files) != 1:
        what = f"has {len(files)} checkpoints (*.pt), name one of them" if files else "holds no checkpoint"
        raise UserError(f"{path}: {what}; a training run's folder or one of save_pretrained is expected")
    return read_checkpoint(files[0])


def shipped_checkpoints() -> list[Path]:
    """The toy world's mappers that come with the repository, Context-I2W first."""
    folders = [path.parent for path in TOY_FOLDER.rglob(WEIGHTS)]
    return sorted([*folders, *TOY_FOLDER.glob("*.pt")], key=lambda path: ("context" not in path.name, path.name))
