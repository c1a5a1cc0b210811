"""What touches the disk: whole files or none, locks, states, checksums, JSON of a declared shape."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import re
import shutil
import sys
import types
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin

from context_i2w.errors import UserError

if TYPE_CHECKING:
    import numpy as np

try:
    import fcntl
except ImportError:  # Windows: two writers at the same time are then not noticed
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

_CHUNK = 1 << 24  # bytes that one thread sums
_THREADS = min(os.cpu_count() or 1, 8)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """An empty file `.NAME.part` beside `path`, which takes its place when the block ends well and goes when it fails.

    The file is on the disk before it gets its name, keeps the umask's mode, and a link is written through. What a
    killed process left is taken over by the next writer; two writers of one path come one after the other.
    Raises UserError, in one line, where the disk is full, read-only or not ours.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(temporary) as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            try:
                yield temporary
                os.chmod(temporary, mode)  # some libraries write with a mode of their own
                with open(temporary, "rb+") as written:
                    os.fsync(written.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)  # from the renaming on, the name may be the next writer's


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic_path`, of an empty folder; several processes may write one path, the last to end wins.

    A block that removes the folder leaves `path` as it is. What killed processes left beside it is removed.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            number = abandoned.name.split(".")[-2]
            if number.isdigit() and not _is_alive(int(number)):
                shutil.rmtree(abandoned, ignore_errors=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        temporary.mkdir()
        try:
            yield temporary
            if temporary.exists():
                if path.exists():
                    shutil.rmtree(path)
                os.replace(temporary, path)
                _sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with `\\n` line ends, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def check_writable(path: Path, option: str) -> None:
    """Writes and removes a file beside an output now, so that hours of work are not lost to a wrong path."""
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder, the name of a file is expected")
    probe = path.with_name(f".{path.name}.probe")
    with disk_errors(Path(f"{option} {path}")):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


@contextlib.contextmanager
def disk_errors(path: Path, remedy: str = "make room, or name another place") -> Iterator[None]:
    """Turns what a disk refuses into a UserError of one line; libraries wrap the system's error or only quote it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise UserError(f"{path}: can't be written ({reason}); {remedy}") from None


def _disk_reason(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.strerror
        quoted = re.search(r"os error (\d+)", str(error))
        if quoted:
            return os.strerror(int(quoted[1]))
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Holds the lock file `path`; another holder is waited for, or refused with the UserError `busy`.

    A process that ends, by a kill too, lets go.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 (held open while locked)
    with file:
        if not _lock(file, wait=busy is None):
            raise UserError(busy)
        yield


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[Any]:
    """The file, new or left behind, emptied and locked."""
    while True:
        with open(path, "ab") as file:
            _lock(file, wait=True)
            try:
                same = os.path.samestat(os.stat(path), os.fstat(file.fileno()))
            except FileNotFoundError:
                same = False
            if same:  # else it was renamed by the writer that was waited for
                file.truncate(0)
                yield file
                return


def _lock(file: Any, wait: bool) -> bool:
    """Whether the lock was got; file systems without locks always give it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def reserve(path: Path, size: int) -> None:
    """A file of `size` zero bytes that are there: a mapped file that meets a full disk would kill the process.

    Raises OSError, and leaves no file, where there is no room.
    """
    try:
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """$CONTEXT_I2W_CACHE, else ~/.cache/context-i2w."""
    if "CONTEXT_I2W_CACHE" in os.environ:
        return Path(os.environ["CONTEXT_I2W_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "context-i2w"


class FileState(NamedTuple):
    """Size in bytes and time of the last change in ns: another pair means another content."""

    size: int
    mtime_ns: int


def file_state(path: str | os.PathLike) -> FileState:
    """Raises OSError where there is no such file."""
    status = os.stat(path)
    return FileState(status.st_size, status.st_mtime_ns)


def checksum(data: Any) -> int:
    """32 bits of a buffer that damage changes (CRC-32 of the chunks' CRC-32s): over 2 GB/s on each core."""
    view = memoryview(data).cast("B")
    if len(view) <= _CHUNK:
        return zlib.crc32(view)
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(lambda start: zlib.crc32(view[start : start + _CHUNK]), range(0, len(view), _CHUNK))
        return zlib.crc32(b"".join(part.to_bytes(4, "little") for part in sums))


def checksums(rows: np.ndarray) -> np.ndarray:
    """The checksum [n] of each row of bytes [n, width]."""
    import numpy as np  # takes a tenth of a second, which --help would wait for

    if rows.shape[1] < 1 << 15:  # a thread would cost more
        return np.array([zlib.crc32(row) for row in rows], np.uint32)
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.fromiter(pool.map(checksum, rows), np.uint32, len(rows))


class FileName(str):
    """In a shape: a relative path that stays inside its folder."""


def read_json(path: Path, shape: Any = None, remedy: str = "make it anew") -> Any:
    """A JSON file, checked to have `shape` (see `misfit`). Raises UserError naming file, place and value."""
    try:
        return parse_json(path.read_bytes(), str(path), shape, remedy)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); {remedy}") from None


def parse_json(content: bytes, origin: str, shape: Any = None, remedy: str = "make it anew") -> Any:
    """As `read_json`, of bytes in UTF-8 with or without a byte-order mark."""
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}: not JSON ({shown(str(error))}); {remedy}") from None
    fault = None if shape is None else misfit(value, shape)
    if fault:
        raise UserError(f"{origin}: {fault}; {remedy}")
    return value


def misfit(value: Any, shape: Any, where: str = "") -> str | None:
    """What in a JSON value is not as its shape declares, in words; None if all is.

    A shape is a type or union (int takes no bool, float takes int, both must be finite; str must be encodable text),
    FileName, [shape] for a list, {"key": shape, "optional?": shape} for an object that may have more keys,
    {str: shape} for a mapping from any name.
    """
    return next(_misfits(value, shape, where), None)


def _misfits(value: Any, shape: Any, where: str) -> Iterator[str]:
    kinds = get_args(shape) if get_origin(shape) in (Union, types.UnionType) else (shape,)
    if isinstance(shape, list | dict) and not isinstance(value, type(shape)):
        yield _expected("a list" if isinstance(shape, list) else "an object", value, where)
    elif isinstance(shape, list):
        for number, item in enumerate(value):
            yield from _misfits(item, shape[0], f"{where}[{number}]")
    elif isinstance(shape, dict):
        yield from _object_misfits(value, shape, where)
    elif not any(_fits(value, kind) for kind in kinds):
        yield _expected(_named(kinds), value, where)


def _object_misfits(value: dict, shape: dict, where: str) -> Iterator[str]:
    dot = f"{where}." if where else ""
    if str in shape:
        for name, item in value.items():
            if not is_text(name):
                yield _expected("text", name, f"a name in {where or 'it'}")
            yield from _misfits(item, shape[str], dot + shown(name))
        return
    for key, inner in shape.items():
        name = key.removesuffix("?")
        if name in value:
            yield from _misfits(value[name], inner, dot + name)
        elif name == key:
            yield f"{where or 'it'} has no {name!r}"


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float and isinstance(value, int):
        return abs(value) < 1e308
    if kind in (str, FileName):
        return isinstance(value, str) and is_text(value) and (kind is str or is_inside(value))
    return isinstance(value, kind or type(None))


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8 and named to the system: no half characters, no zero byte."""
    return "\0" not in value and not re.search("[\ud800-\udfff]", value)


def is_inside(name: str) -> bool:
    """Whether a name from a file of others stays inside the folder it is joined to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def is_hidden(name: str | os.PathLike) -> bool:
    """Whether a file is none of the user's: macOS leaves `._NAME` beside each NAME, editors `.NAME.swp`."""
    return os.path.basename(name).startswith(".")


def _named(kinds: tuple) -> str:
    names = {int: "a whole number", float: "a finite number", str: "text", dict: "an object", list: "a list",
             FileName: "a file name inside the folder", type(None): "null", bool: "true or false"}  # fmt: skip
    return " or ".join(names.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)


def _expected(what: str, value: Any, where: str) -> str:
    return f"{where or 'it'} is {shown(repr(value))}, {what} is expected"


def shown(text: str, most: int = 80) -> str:
    """Text of others for an error's one line: unprintable characters escaped, cut when long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return text if len(text) <= most else text[:most] + "..."


def list_some(names: list[str], most: int = 5) -> str:
    """The first few names for an error message: `a, b and 3 more`."""
    some = ", ".join(shown(name, 200) for name in names[:most])
    return f"{some} and {len(names) - most} more" if len(names) > most else some


def note(message: str) -> None:
    """One line on stderr: what was assumed, left out or made anew."""
    print(message, file=sys.stderr, flush=True)
