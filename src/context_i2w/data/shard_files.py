"""WebDataset shards as files: names from patterns, samples one after the other, how many there are."""

import contextlib
import json
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from braceexpand import braceexpand
from tqdm import tqdm
from webdataset.gopen import gopen

from context_i2w.errors import UserError

ATTEMPTS = 3  # at reading on in a shard whose connection broke


class Sample(NamedTuple):
    """The files of one sample: their common name, and contents by lower-case ending (`jpg`, `json`, `masked.txt`)."""

    name: str
    members: dict[str, bytes]


class BrokenShard(Exception):
    """A shard that can't be read, or not to its end; the message says why."""


def is_shards(data: str) -> bool:
    """Whether training data are shards (`….tar`, a URL, `pipe:…`, a folder of tars) and not a list."""
    return data.startswith("pipe:") or "://" in data or data.endswith(".tar") or any(_in_folder(data))


def expand_shards(data: str) -> list[str]:
    """Paths and URLs of shards from a brace pattern (`cc_data/train/{00000..00331}.tar`) or a folder.

    Raises UserError naming the local ones that are missing.
    """
    shards = [str(path) for path in _in_folder(data)] or list(braceexpand(data))
    missing = [shard for shard in shards if is_local(shard) and not Path(shard).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"no such shards: {', '.join(missing[:3])}{more} (of {len(shards)}); mend --train-data or fetch them"
        )
    return shards


def is_local(shard: str) -> bool:
    return not shard.startswith("pipe:") and "://" not in shard


def read_samples(shard: str, skip: int = 0) -> Iterator[Sample]:
    """Samples in the shard's order from number `skip` on. A stream that breaks is opened again and read on.

    Skipped samples cost a seek each in a local file, their bytes in a stream. Raises BrokenShard after three
    attempts without a further sample.
    """
    failures = 0
    while True:
        try:
            for sample in _read_once(shard, skip):
                yield sample
                skip, failures = skip + 1, 0
            return
        except (tarfile.TarError, OSError, EOFError) as error:
            failures += 1
            if is_local(shard) or failures == ATTEMPTS:
                raise BrokenShard(f"{shard}: {error}") from None
            time.sleep(2.0**failures)


def shard_sizes(shards: Sequence[str], samples: int | None, show: bool = True) -> list[int]:
    """How many samples each shard holds.

    From `sizes.json` ({name: count}) in the shards' folder, else img2dataset's `NNNNN_stats.json` beside each shard;
    else `samples`, split evenly; else by counting local shards' headers. Raises UserError where none is possible, or
    `samples` contradicts the files.
    """
    known = _sizes_from_list(shards) or _sizes_from_stats(shards)
    if known:
        if samples not in (None, sum(known)):
            raise UserError(f"--train-samples {samples}: the shards' sizes files say {sum(known)}; leave it out")
        return known
    if samples is not None:
        share, more = divmod(samples, len(shards))
        return [share + (number < more) for number in range(len(shards))]
    if not all(map(is_local, shards)):
        raise UserError(f"{shards[0]}: the number of samples is not known; give --train-samples")
    with tqdm(shards, desc="counting samples", unit="shard", dynamic_ncols=True, disable=not show) as bar:
        return [_count(shard) for shard in bar]


def _in_folder(data: str) -> list[Path]:
    return sorted(Path(data).glob("*.tar")) if "://" not in data and Path(data).is_dir() else []


def _read_once(shard: str, skip: int) -> Iterator[Sample]:
    name, members, number = None, {}, -1
    with _opened(shard) as archive:
        for header in archive:
            if not header.isfile():
                continue
            this, ending = _split(header.name)
            if this != name:
                if members:
                    yield Sample(name, members)
                name, members, number = this, {}, number + 1
            if number >= skip:
                members[ending] = archive.extractfile(header).read()
        if members:
            yield Sample(name, members)


@contextlib.contextmanager
def _opened(shard: str) -> Iterator[tarfile.TarFile]:
    if is_local(shard):
        with tarfile.open(shard, "r:") as archive:
            yield archive
        return
    stream = gopen(shard)
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            yield archive
    finally:
        with contextlib.suppress(OSError):  # a command that is stopped before its end complains
            stream.close()


def _split(path: str) -> tuple[str, str]:
    """What the files of one sample share, and the ending, by WebDataset's rule: at the name's first dot."""
    folder, slash, name = path.rpartition("/")
    stem, _, ending = name.partition(".")
    return folder + slash + stem, ending.lower()


def _sizes_from_list(shards: Sequence[str]) -> list[int] | None:
    path = Path(shards[0]).parent / "sizes.json"
    if not is_local(shards[0]) or not path.is_file():
        return None
    sizes = _read_json(path)
    missing = [shard for shard in shards if Path(shard).name not in sizes]
    if missing:
        raise UserError(
            f"{path}: does not name {Path(missing[0]).name} ({len(missing)} shards); make it anew or delete it"
        )
    return [int(sizes[Path(shard).name]) for shard in shards]


def _sizes_from_stats(shards: Sequence[str]) -> list[int] | None:
    paths = [Path(shard.removesuffix(".tar") + "_stats.json") for shard in shards]
    if not all(is_local(shard) for shard in shards) or not all(path.is_file() for path in paths):
        return None
    return [int(_read_json(path)["successes"]) for path in paths]


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); delete it to have samples counted") from None


def _count(shard: str) -> int:
    try:
        with tarfile.open(shard, "r:") as archive:
            names = [_split(header.name)[0] for header in archive if header.isfile()]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{shard}: not a shard ({error}); fetch it again or leave it out") from None
    return sum(a != b for a, b in zip(names, [None, *names]))
