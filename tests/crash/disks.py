"""Commands on a disk that is full, and on one that can only be read: one line or a right result, and nothing lost.

python -m tests.crash.disks           # as root on Linux: it mounts small disks of its own
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.points import evaluate, files, mask, mask_shards, prepared
from tests.fuzz import forked
from tests.fuzz.cases import MAPPER, World

from context_i2w import Retriever
from context_i2w.errors import exit_on_user_error
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.toy_world import make_toy_world
from context_i2w.toy_world.sizes import Sizes

SIZES = ("4k", "64k", "512k", "2m")  # of a disk that fills up
ENOUGH = "512m"


@exit_on_user_error
def index(world: World, disk: Path) -> None:
    Retriever.load(MAPPER).index(world.photos, disk / "store", EncodingOptions(batch_size=2, workers=0))


@exit_on_user_error
def draw(world: World, disk: Path) -> None:
    make_toy_world(disk / "toy", sizes=Sizes.mini(), workers=1)


def train(world: World, disk: Path) -> None:
    last = disk / "logs/run/checkpoints/last.pt"
    forked.script("main")([*world.train(disk), *(["--resume", str(last)] if last.exists() else [])])


def cache(world: World, disk: Path) -> None:
    """The run's log is elsewhere, and is begun anew."""
    logs = Path(tempfile.mkdtemp(dir=world.root))
    forked.script("main")([*world.train(logs, cache=disk / "features")])


def gallery(world: World, disk: Path) -> None:
    _demo(world, "--output", disk / "gallery.html")


def export(world: World, disk: Path) -> None:
    _demo(world, "--export", disk / "features.npy")


def share(world: World, disk: Path) -> None:
    forked.script("share_mapper")(["--resume", str(world.checkpoint), "--output", str(disk / "shared")])


def _demo(world: World, option: str, path: Path) -> None:
    words = ["--images", str(world.photos), "--cache", str(world.root / "store"), "--resume", str(MAPPER)]
    forked.script("demo")([*words, "--query", str(world.image), "--prompts", "a photo of [*]", option, str(path)])


Job = Callable[[World, Path], None]
JOBS: dict[str, Job] = {job.__name__: job for job in (
    train, cache, index, evaluate, mask, mask_shards, draw, gallery, export, share,
)}  # fmt: skip
READING: dict[str, Job] = {job.__name__: job for job in (index, cache)}  # what is complete needs no writing


def full(world: World, name: str) -> Iterator[str]:
    """Faults of a command on disks that fill up at some size, then grow: what it leaves must go on to the end."""
    for size in SIZES:
        with mounted(world.root / "disk", size) as disk:
            end = _run(world, JOBS[name], disk)
            if found := forked.fault(end):
                yield f"{name}, disk of {size}: {found}"
            _remount(disk, f"size={ENOUGH}")
            again = _run(world, JOBS[name], disk)
            if again.status != 0:
                yield f"{name}, disk of {size}: does not go on ({again.err.strip()[-300:]})"


def read_only(world: World, name: str) -> Iterator[str]:
    """Faults of a command where nothing can be written: one line at once; of a complete cache, its reading."""
    with mounted(world.root / "disk", ENOUGH) as disk:
        _remount(disk, "ro")
        end = _run(world, JOBS[name], disk)
        if end.status != 2 or forked.fault(end):
            yield f"{name}, read-only: {forked.fault(end) or f'status {end.status}'}"
        if name in READING:
            _remount(disk, "rw")
            _run(world, READING[name], disk)
            before = files(disk)
            _remount(disk, "ro")
            end = _run(world, READING[name], disk)
            if end.status != 0 or files(disk) != before:
                yield f"{name}, complete and read-only: {end.err.strip()[-300:]}"


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def _run(world: World, job: Job, disk: Path) -> forked.End:
    return forked.run(lambda: job(world, disk), world.root, 120)


def main() -> None:
    count = 0
    with tempfile.TemporaryDirectory(prefix="disks-") as root:
        world = prepared(Path(root))
        for title, check in (("full", full), ("read-only", read_only)):
            for name in JOBS:
                for found in check(world, name):
                    count += 1
                    print(found, flush=True)
            print(f"{title}: {len(JOBS)} commands", flush=True)
    print(f"{count} faults")
    sys.exit(bool(count))


if __name__ == "__main__":
    main()
