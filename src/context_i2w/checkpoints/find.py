"""Where a mapper comes from: a file, a run, a shared folder, the hub, or the toy world's, which the package ships."""

import os
import re
from pathlib import Path

from context_i2w.checkpoints.files import Checkpoint, read_checkpoint
from context_i2w.checkpoints.shared import WEIGHTS, from_pretrained, is_pretrained_folder
from context_i2w.errors import UserError
from context_i2w.model.clip_weights import TOY_FOLDER

LAST = "last.pt"  # of a run: logs/RUN/checkpoints/last.pt
_SHIPPED = re.compile(r"(?:checkpoints/)?toy(?:/([\w.-]+))?")  # checkpoints/toy is a link of the repository
_HUB_NAME = re.compile(r"[\w-]+/[\w.-]+(?<!\.pt)")


def find_checkpoint(source: str | os.PathLike, trust_code: bool = False) -> Checkpoint:
    """Of a checkpoint file, a run's folder, one of `save_pretrained`, the hub's "owner/name", "toy" or "toy/NAME".

    trust_code: as `read_checkpoint` has it. Raises UserError if it is nothing of the kind.
    """
    path = Path(source)
    if not os.path.exists(path) and (match := _SHIPPED.fullmatch(path.as_posix())):
        path = _shipped(match[1])
    elif os.path.isdir(path) and os.path.samefile(path, TOY_FOLDER):
        path = _shipped(None)
    if is_pretrained_folder(path) or (not os.path.exists(path) and _HUB_NAME.fullmatch(str(path))):
        return from_pretrained(path, trust_code=trust_code)
    files, last = [path], path / "checkpoints" / LAST
    if os.path.isdir(path):
        files = [last] if os.path.isfile(last) else sorted(path.glob("*.pt"))
    if len(files) != 1:
        what = f"has {len(files)} checkpoints (*.pt), name one of them" if files else "holds no checkpoint"
        raise UserError(f"{path}: {what}; a training run's folder or one of save_pretrained is expected")
    return read_checkpoint(files[0], trust_code)


def shipped_checkpoints(published: bool = False) -> list[Path]:
    """Folders of the toy world's mappers, Context-I2W first; published: also those trained on the published text."""
    folders = [path.parent for path in TOY_FOLDER.glob(f"*/{WEIGHTS}")]
    folders = [path for path in folders if published or not path.name.endswith("-published")]
    return sorted(folders, key=lambda path: ("context" not in path.name, path.name))


def _shipped(name: str | None) -> Path:
    """The folder of the mapper of that name, or the first. Raises UserError if there is none."""
    folders = {folder.name: folder for folder in shipped_checkpoints(published=True)}
    if name and name not in folders:
        known = ", ".join(f"toy/{name}" for name in folders)
        raise UserError(f"toy/{name}: no mapper of the toy world; there are {known}")
    return folders[name] if name else next(iter(folders.values()))


def newest_checkpoint(logs: Path) -> Path | None:
    """The last checkpoint of the run that was written to most recently, if there is any."""
    found = [path for path in logs.glob(f"*/checkpoints/{LAST}") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def checkpoint_to_resume(resume: str, logs: Path) -> Path:
    """The file meant by `--resume PATH|auto`; PATH may be a run's folder. Raises UserError if there is none."""
    if resume == "auto":
        path = newest_checkpoint(logs)
        if path is None:
            raise UserError(f"--resume auto: no run with a checkpoint under {logs}/; start one without --resume")
        return path
    path = Path(resume)
    path = path / "checkpoints" / LAST if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"--resume {resume}: no such run or checkpoint; auto takes the newest run under {logs}/")
    return path
