"""Which image files a gallery has, and how to see that one has changed."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from context_i2w.errors import UserError
from context_i2w.files import FileState, file_state, is_hidden

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"]
)


@dataclass(frozen=True)
class Files:
    """Images below a folder. states: name relative to the root, with `/` -> state; in the order of names.

    label tells lists of the same folder apart, e.g. a benchmark's gallery; "" is the whole folder.
    """

    root: Path
    states: dict[str, FileState]
    label: str = ""

    @property
    def title(self) -> str:
        """For people: the list's name, else the folder as it was given."""
        return self.label or str(self.root)

    def path(self, name: str) -> Path:
        return self.root / name


def files_of_folder(folder: str | os.PathLike) -> Files:
    """All images of the folder and the folders in it; hidden ones (`.name`) are left out.

    Raises UserError if there is no such folder or no image in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images")
    found = {}
    for entry in _walk(root):
        name = Path(entry.path).relative_to(root).as_posix()
        state = _state(entry)
        if state is not None:
            found[name] = state
    if not found:
        raise UserError(f"{root}: no images in this folder (looked for {', '.join(sorted(SUFFIXES))})")
    return Files(root, dict(sorted(found.items())))


def files_of_list(paths: Iterable[str | os.PathLike], label: str) -> Files:
    """The given files, each once. Raises UserError if one does not exist or the list is empty."""
    absolute = sorted({os.path.abspath(path) for path in paths})
    if not absolute:
        raise UserError(f"{label}: an empty list of images")
    root = Path(os.path.commonpath([os.path.dirname(path) for path in absolute]))
    states = {}
    for path in absolute:
        try:
            states[Path(path).relative_to(root).as_posix()] = file_state(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
    return Files(root, states, label)


def _walk(folder: Path) -> Iterable[os.DirEntry]:
    try:
        entries = list(os.scandir(folder))
    except PermissionError:
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield entry


def _state(entry: os.DirEntry) -> FileState | None:
    """None for a link that leads nowhere and for what is no file."""
    try:
        stat = entry.stat()
        return FileState(stat.st_size, stat.st_mtime_ns) if entry.is_file() else None
    except OSError:
        return None
