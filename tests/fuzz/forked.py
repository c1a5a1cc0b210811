"""Runs an entry point in a forked child, bounded in time and memory, and judges how it ended."""

import contextlib
import importlib
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tqdm

from context_i2w.files import cache_folder  # noqa: F401  (the package is loaded once, before the forks)

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 10 << 30
ERROR_LINE = 1500


class End(NamedTuple):
    """How a child ended. status: exit status, -N for signal N, None if it hung."""

    status: int | None
    out: str
    err: str
    seconds: float


def script(name: str) -> Callable[[list[str]], None]:
    """The `main` of a file under src/ or scripts/, imported by its name."""
    for folder in ("src", "scripts", "scripts/measure"):
        if str(ROOT / folder) not in sys.path:
            sys.path.append(str(ROOT / folder))
    main = importlib.import_module(name).main

    def run(argv: list[str]) -> None:
        sys.argv = [name, *argv]
        main()

    return run


def run(job: Callable[[], object], folder: Path, limit: float = 60, kill_after: float | None = None) -> End:
    """Runs `job` in a child whose working folder and home are `folder`; kill_after: seconds until kill -9."""
    sys.stdout.flush()
    began, paths = time.monotonic(), (folder / ".out", folder / ".err")
    child = os.fork()
    if child == 0:
        _child(job, folder, paths)
    status = _wait(child, began + (limit if kill_after is None else min(limit, kill_after)))
    if status is None and kill_after is not None:
        status = -signal.SIGKILL
    out, err = (path.read_text(errors="replace") if path.exists() else "" for path in paths)
    return End(status, out, err, time.monotonic() - began)


def _child(job: Callable[[], object], folder: Path, paths: tuple[Path, Path]) -> None:
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        for number, path in enumerate(paths, 1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        here = {"HOME": str(folder), "CONTEXT_I2W_CACHE": str(folder / "cache")}
        os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1", **here)
        tqdm.tqdm.set_lock(threading.RLock())  # the default one is shared with children that were killed
        sys.stdout = open(1, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        try:
            job()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def _wait(child: int, deadline: float) -> int | None:
    """The child's status; None, and it and its workers are killed, if it goes on beyond the deadline."""
    status = None
    while status is None and time.monotonic() < deadline:
        done, raw = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(raw) if done else None
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # itself, or workers that it left
    if status is None:
        os.waitpid(child, 0)
    return status


def fault(end: End, statuses: tuple[int, ...] = ()) -> str | None:
    """What is wrong with an end, in words; None for status 0, or status 2 with one line `error: …`.

    statuses: others that are right.
    """
    if end.status is None:
        return f"hang: over {end.seconds:.0f} s"
    if end.status < 0:
        return f"signal {-end.status}"
    if "Traceback (most recent call last)" in end.err:
        places = re.findall(r'File "[^"]*?((?:context_i2w|scripts|src)/[^"]+)", line (\d+)', end.err)
        last = end.err.strip().splitlines()[-1]
        return f"traceback: {':'.join(places[-1]) if places else '?'} {last[:160]}"
    if end.status == 2:
        lines = end.err[end.err.rfind("error: ") :].strip().splitlines() if "error: " in end.err else []
        if len(lines) != 1 or len(lines[0]) > ERROR_LINE:
            return f"no single error line: {end.err[-300:]!r}"
    elif end.status not in (0, *statuses):
        return f"status {end.status}: {end.err.strip()[-200:]!r}"
    return None
