"""WebDataset shards as files: names from patterns, samples one after the other, how many there are."""

import contextlib
import io
import itertools
import re
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from context_i2w.errors import UserError, extra
from context_i2w.files import is_hidden, list_some, read_json, shown

ATTEMPTS = 3  # at reading on in a shard whose connection broke
ENDINGS = (".tar", ".tar.gz", ".tgz")
MOST_SHARDS, MOST_BYTES = 1_000_000, 1 << 31  # of a pattern, of a member
TIMES = re.compile(rb"(?:\d+ [acm]time=[\d.]*\n)+")  # a pax header of nothing else
DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error)


SIZES, STATS, INFO = "sizes.json", "_stats.json", "_info.json"
REMEDY = "delete it to have samples counted"


class Sample(NamedTuple):
    """The files of one sample: their common name, and contents by lower-case ending (`jpg`, `json`, `masked.txt`)."""

    name: str
    members: dict[str, bytes]


class BrokenShard(Exception):
    """A shard that can't be read, or not to its end; the message says why."""


class QuickHeader(tarfile.TarInfo):
    """A member's name, type and size, at a fraction of tarfile's time for all its fields; it reads what isn't plain."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "QuickHeader":
        """Of an unpacked file: a plain member, pax's times before it or not."""
        file = archive.fileobj
        if archive.pax_headers or not isinstance(file, io.BufferedReader):  # in a zipped file the way back is long
            return super().fromtarfile(archive)
        start = file.tell()
        block = file.read(tarfile.BLOCKSIZE)
        plain = _type_and_size(block)
        if plain and plain[0] == tarfile.XHDTYPE:
            times = TIMES.fullmatch(file.read(tarfile.BLOCKSIZE)[: plain[1]]) if plain[1] < tarfile.BLOCKSIZE else None
            block = file.read(tarfile.BLOCKSIZE)
            plain = _type_and_size(block) if times else None
        if not plain or plain[0] != tarfile.REGTYPE:
            file.seek(start)
            return super().fromtarfile(archive)
        header = cls._of(block, *plain)
        header.offset, header.offset_data = start, file.tell()
        archive.offset = header.offset_data - -header.size // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        return header

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "QuickHeader":
        plain = _type_and_size(buf)
        return cls._of(buf, *plain) if plain else super().frombuf(buf, encoding, errors)

    @classmethod
    def _of(cls, block: Any, kind: bytes, size: int) -> "QuickHeader":
        header = cls(block[:100].partition(b"\0")[0].decode(tarfile.ENCODING, "surrogateescape"))
        header.type, header.size = kind, size
        return header


def _type_and_size(block: Any) -> tuple[bytes, int] | None:
    """Of a header of a plain file, or of pax's fields, that is whole."""
    kind = block[156:157]
    if len(block) != tarfile.BLOCKSIZE or kind not in (tarfile.REGTYPE, tarfile.XHDTYPE) or block[345]:
        return None
    checksum = block[148:156]
    try:
        size = int(block[124:136].rstrip(b"\0 "), 8)
        whole = sum(block) - sum(checksum) + 8 * ord(" ") == int(checksum.rstrip(b"\0 "), 8)
    except ValueError:
        return None
    return (kind, size) if whole and size >= 0 else None


def is_shards(data: str) -> bool:
    """Whether training data are shards (`….tar`, a URL, `pipe:…`, a folder of tars) and not a list."""
    return data.startswith("pipe:") or "://" in data or data.endswith(ENDINGS) or any(_in_folder(data))


def expand_shards(data: str) -> list[str]:
    """Paths and URLs of shards from a brace pattern (`cc_data/train/{00000..00331}.tar`) or a folder.

    Raises UserError naming the local ones that are missing.
    """
    with extra("train"):
        from braceexpand import braceexpand
    try:
        shards = _in_folder(data) or list(itertools.islice(braceexpand(data), MOST_SHARDS))
    except ValueError as error:
        raise UserError(f"{shown(data)}: not a pattern of shards ({error}); as {{00000..00331}}.tar") from None
    missing = [shard for shard in shards if is_local(shard) and not Path(shard).is_file()]
    if missing:
        raise UserError(f"no such shards: {list_some(missing, 3)} (of {len(shards)}); mend the name or fetch them")
    return shards


def is_local(shard: str) -> bool:
    return not shard.startswith("pipe:") and "://" not in shard


def members(archive: Iterable[tarfile.TarInfo]) -> Iterator[tuple[int, str, str, tarfile.TarInfo]]:
    """(number of the sample, its name, ending, header) of a shard's files, in their order.

    A sample is what shares a name up to its first dot, as WebDataset has it; an ending that comes again begins a
    sample of the same name. Hidden files are left out. Raises BrokenShard if a sample's files do not stand together.
    """
    number, name = -1, None
    endings: set[str] = set()
    firsts: dict[str, str] = {}  # each sample's first ending
    for header in archive:
        if not header.isfile() or is_hidden(header.name):
            continue
        this, ending = _split(header.name)
        if this != name or ending in endings:
            if firsts.setdefault(this, ending) != ending:
                raise BrokenShard(f"the files of sample {shown(this)} do not stand together; pack it sorted by name")
            number, name, endings = number + 1, this, set()
        if header.size > MOST_BYTES:
            raise BrokenShard(f"{shown(header.name)} would have {header.size} bytes")
        endings.add(ending)
        yield number, this, ending, header


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
        except (*DAMAGE, BrokenShard) as error:
            failures += 1
            if is_local(shard) or failures == ATTEMPTS:
                raise BrokenShard(f"{shard}: {error}") from None
            time.sleep(2.0**failures)


def shard_sizes(shards: Sequence[str], samples: int | None, show: bool = True) -> list[int]:
    """How many samples each shard holds.

    From `sizes.json` ({name: count}) in the shards' folder, else img2dataset's `NNNNN_stats.json` beside each shard,
    else timm's `_info.json` in the folder, as ready-made shards on the hub have; else `samples`, split evenly; else by
    counting local shards' headers. Raises UserError where none is possible, or `samples` contradicts the files.
    """
    known = _sizes_from_list(shards) or _sizes_from_stats(shards) or _sizes_from_info(shards)
    if known:
        if samples not in (None, sum(known)):
            raise UserError(f"--train-samples {samples}: the shards' sizes files say {sum(known)}; leave it out")
        return known
    if samples is not None and not 0 < samples < 1 << 40:
        raise UserError(f"--train-samples {samples}: the number of samples of all shards is expected")
    if samples is not None:
        share, more = divmod(samples, len(shards))
        return [share + (number < more) for number in range(len(shards))]
    if not all(map(is_local, shards)):
        raise UserError(f"{shards[0]}: the number of samples is not known; give --train-samples")
    with tqdm(shards, desc="counting samples", unit="shard", dynamic_ncols=True, disable=not show) as bar:
        return [_count(shard) for shard in bar]


def _in_folder(data: str) -> list[str]:
    if "://" in data or data.startswith("pipe:") or not Path(data).is_dir():
        return []
    return sorted(str(path) for path in Path(data).iterdir() if path.name.endswith(ENDINGS) and not is_hidden(path))


def _read_once(shard: str, skip: int) -> Iterator[Sample]:
    sample, number = Sample("", {}), -1
    with open_shard(shard, QuickHeader) as archive:
        for this, name, ending, header in members(archive):
            if this != number:
                if sample.members:
                    yield sample
                sample, number = Sample(name, {}), this
            if number >= skip:
                sample.members[ending] = read_member(archive, header)
        if sample.members:
            yield sample


def read_member(archive: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    """The content of one of `members`. Raises EOFError if the shard ends before."""
    if header.issparse() and (whole := archive.extractfile(header)):  # with its holes
        return whole.read()
    assert archive.fileobj is not None  # it is open
    archive.fileobj.seek(header.offset_data)
    content = archive.fileobj.read(header.size)
    if len(content) < header.size:
        raise EOFError(f"ends within {shown(header.name)}")
    return content


@contextlib.contextmanager
def open_shard(shard: str, header: type[tarfile.TarInfo] = tarfile.TarInfo) -> Iterator[tarfile.TarFile]:
    """A shard, its members' headers of that class."""
    if is_local(shard):
        with tarfile.open(shard, "r:*", tarinfo=header) as archive:
            yield archive
        return
    with extra("train"):
        from webdataset.gopen import gopen  # imports torch, which lists and masking can do without

    stream = gopen(shard)
    try:
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=header) as archive:
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
    path = Path(shards[0]).parent / SIZES
    if not is_local(shards[0]) or not path.is_file():
        return None
    sizes = read_json(path, {str: int}, REMEDY)
    missing = [shard for shard in shards if Path(shard).name not in sizes]
    if missing:
        raise UserError(
            f"{path}: does not name {Path(missing[0]).name} ({len(missing)} shards); make it anew or delete it"
        )
    return [_checked(sizes[Path(shard).name], path) for shard in shards]


def _sizes_from_stats(shards: Sequence[str]) -> list[int] | None:
    paths = [Path(_stem(shard) + STATS) for shard in shards]
    if not all(is_local(shard) for shard in shards) or not all(path.is_file() for path in paths):
        return None
    return [_checked(read_json(path, {"successes": int}, REMEDY)["successes"], path) for path in paths]


def _sizes_from_info(shards: Sequence[str]) -> list[int] | None:
    path = Path(shards[0]).parent / INFO
    if not is_local(shards[0]) or not path.is_file():
        return None
    shape = {"splits": {str: {"filenames": [str], "shard_lengths": [int]}}}
    splits = read_json(path, shape, REMEDY)["splits"].values()
    known = {name: size for split in splits for name, size in zip(split["filenames"], split["shard_lengths"])}
    names = [Path(shard).name for shard in shards]
    return [_checked(known[name], path) for name in names] if known.keys() >= {*names} else None


def files_of_sizes(shard: Path) -> list[Path]:
    """The files that `shard_sizes` would read for a local shard, those that are there."""
    names = [SIZES, INFO, Path(_stem(shard.name) + STATS).name]
    return [path for name in names if (path := shard.parent / name).is_file()]


def _stem(shard: str) -> str:
    return shard.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar")


def _checked(size: int, path: Path) -> int:
    if not 0 <= size < 1 << 40:
        raise UserError(f"{path}: {shown(str(size))} samples in a shard; {REMEDY}")
    return size


def _count(shard: str) -> int:
    try:
        with open_shard(shard, QuickHeader) as archive:
            return max((number for number, *_ in members(archive)), default=-1) + 1
    except (*DAMAGE, BrokenShard) as error:
        raise UserError(f"{shard}: not a shard ({error}); mend it, fetch it again or leave it out") from None
