"""Which image files a gallery has, and how to see that one has changed."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from context_i2w.errors import UserError
from context_i2w.files import FileState, file_state, is_hidden
from context_i2w.model.images import Packed
from context_i2w.search.pictures import HEIF

HEIC = frozenset([".heic", ".heif", ".hif"])
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"]
) | (HEIC if HEIF else frozenset())
# Pictures to a person, but of kinds that nothing here decodes: they are counted, not passed over in silence.
UNREAD = (HEIC - SUFFIXES) | {
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".jxl", ".jp2", ".psd", ".svg")
}


@dataclass(frozen=True)
class Files:
    """Images below a folder."""

    root: Path
    states: dict[str, FileState]  # by name relative to the root, with `/`; in the order of names
    label: str = ""  # tells lists of the same folder apart, e.g. a benchmark's gallery; "" is the whole folder
    unread: dict[str, int] = field(default_factory=dict)  # how many of which suffixes were left out

    @property
    def title(self) -> str:
        """For people: the list's name, else the folder as it was given."""
        return self.label or str(self.root)

    def path(self, name: str) -> Path | Packed:
        """What to read a picture from."""
        return self.root / name

    @property
    def unread_kinds(self) -> str:
        """For people, e.g. "12 .heic, 3 .cr2 (`pip install pillow-heif` reads HEIC)"; "" if there are none."""
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(self.unread.items()))
        return kinds + (" (`pip install pillow-heif` reads HEIC)" if HEIC & self.unread.keys() else "")


def files_of_folder(folder: str | os.PathLike) -> Files:
    """All images of the folder and those in it, but hidden ones (`.name`). Raises UserError if there is none."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images")
    found: dict[str, FileState] = {}
    unread: Counter[str] = Counter()
    start = os.path.join(root, "")
    for path in _walk(root):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in UNREAD:
            unread[suffix] += 1
        if suffix in SUFFIXES:
            with contextlib.suppress(OSError):  # gone meanwhile, or not for this user to see
                if os.path.isfile(path):
                    found[path.removeprefix(start).replace(os.sep, "/")] = file_state(path)
    files = Files(root, dict(sorted(found.items())), unread=dict(unread))
    if not found:
        others = f"; it holds {files.unread_kinds}" if unread else ""
        raise UserError(f"{root}: no images in this folder (looked for {', '.join(sorted(SUFFIXES))}){others}")
    return files


def files_of_list(paths: Iterable[str | os.PathLike], label: str = "") -> Files:
    """The given files and those of the given folders, each once. Raises UserError if one is not there, or none is."""
    found: set[str] = set()
    unread: Counter[str] = Counter()
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise UserError(f"a list of images holds paths of files, not a {type(path).__name__}")
        folder = files_of_folder(path) if os.path.isdir(path) else None
        found |= {os.path.abspath(folder.path(name)) for name in folder.states} if folder else {os.path.abspath(path)}
        unread.update(folder.unread if folder else {})
    if not found:
        raise UserError(f"{label + ': ' if label else ''}an empty list of images")
    root = Path(os.path.commonpath([os.path.dirname(path) for path in found]))
    states = {}
    for path in sorted(found):
        try:
            states[Path(path).relative_to(root).as_posix()] = file_state(path)
        except (OSError, ValueError) as error:  # a ValueError for a null character
            raise UserError(f"{path}: {getattr(error, 'strerror', error)}") from None
    return Files(root, states, label or f"a list under {root}", dict(unread))


def _walk(root: Path) -> Iterator[str]:
    """What is in a folder and those in it, but hidden files and folders; links to folders are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (os.path.join(folder, name) for name in names if not is_hidden(name))
