"""Long lists of training pairs, read once for each machine: packed in the cache folder, mapped by every process.

A kept list is a folder `lists/NAME-KEY/STATE` of the cache folder; KEY is of the list's path and columns, STATE of its
size and time of change. It appears there in one step, and takes the place of what was kept of an older state.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from context_i2w.data.packed_strings import Strings
from context_i2w.errors import UserError
from context_i2w.files import atomic_folder, cache_folder, file_state, locked, note

LONG = 1 << 24  # bytes; shorter lists are read in a second


def keep(path: Path, columns: tuple[str, ...], read: Callable[[], tuple[Strings, ...]]) -> tuple[Strings, ...]:
    """What `read` makes of a list, from the cache folder if it is there; one process reads, others wait for it.

    columns: all that `read` depends on but the list itself. Where the cache folder can't be written, the list stays in
    this process's memory.
    """
    state = file_state(path)
    if state.size < LONG:
        return read()
    folder = cache_folder() / "lists" / f"{path.name[:40]}-{_hash(str(path.resolve()), *columns)}"
    kept = folder / _hash(*map(str, state))
    found = _mapped(kept)
    if found:
        return found
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(locked(folder / "lock"))
        except UserError as error:
            note(f"{error}, by CONTEXT_I2W_CACHE; {path} is read into each process's memory")
            return read()
        return _mapped(kept) or _written(kept, read())


def _mapped(kept: Path) -> tuple[Strings, ...] | None:
    try:
        return tuple(map(Strings.mapped, sorted(kept.iterdir()))) or None
    except (OSError, ValueError):  # not there, or damaged
        return None


def _written(kept: Path, parts: tuple[Strings, ...]) -> tuple[Strings, ...]:
    try:
        for old in filter(Path.is_dir, list(kept.parent.iterdir())):
            shutil.rmtree(old)
        with atomic_folder(kept) as unfinished:
            for number, strings in enumerate(parts):
                strings.write(unfinished / str(number))
    except (OSError, UserError) as error:
        note(f"{error}; the list is read into each process's memory")
    return _mapped(kept) or parts


def _hash(*items: str) -> str:
    return hashlib.sha256("\0".join(items).encode("utf-8", "surrogateescape")).hexdigest()[:12]
