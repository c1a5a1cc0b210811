"""Adds masked captions to WebDataset shards: each sample's `.json` gains the field `masked_title`.

A shard is rewritten to another folder, whole or not at all, and its summary beside it; finished shards are
skipped, so a stopped run goes on where it was. All other members keep their bytes and order.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from braceexpand import braceexpand

from context_i2w.errors import UserError
from context_i2w.files import atomic_path, list_some, write_text
from context_i2w.preparation.masking.lists import MASKED_COLUMN
from context_i2w.preparation.masking.rules import Parser, mask_captions
from context_i2w.preparation.masking.summary import Summary

_BATCH = 2_000


class Member(NamedTuple):
    """A file of a tar: its header and bytes."""

    header: tarfile.TarInfo
    content: bytes

    @property
    def key(self) -> str:
        """What the files of one sample share: the path up to the first dot of its name."""
        folder, _, name = self.header.name.rpartition("/")
        return f"{folder}/{name.split('.')[0]}"

    @property
    def ending(self) -> str:
        return self.header.name.rpartition("/")[2].partition(".")[2].lower()


def find_shards(patterns: Iterable[str]) -> list[Path]:
    """Shards by folder, path or brace pattern (`{00000..00331}.tar`). Raises UserError if any is missing."""
    shards: list[Path] = []
    for pattern in patterns:
        for name in braceexpand(pattern):
            path = Path(name)
            shards += sorted(path.glob("*.tar")) if path.is_dir() else [path]
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise UserError(f"no such shards: {list_some(missing or list(patterns))}")
    return shards


def mask_shards(
    shards: list[Path],
    output: Path,
    parser: Parser,
    policy: str,
    *,
    masked_field: str = MASKED_COLUMN,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = lambda shards: shards,
) -> Summary:
    """Rewrites each shard into the folder `output`; returns what was done, finished shards included.

    Raises UserError for a damaged shard, an output that is the input, or shards there made with other options.
    """
    if any(shard.resolve().parent == output.resolve() for shard in shards):
        raise UserError(f"--output {output} is the folder of the shards themselves; name another")
    work = {"parser": parser.name, "policy": policy, "field": masked_field}
    total = Summary()
    for shard in progress(shards):
        report = output / f"{shard.stem}_masking.json"
        if not ((output / shard.name).exists() and report.exists()):
            summary = _mask_shard(shard, output / shard.name, parser, policy, masked_field)
            write_text(report, json.dumps({**work, "summary": summary.as_json()}))
        content = json.loads(report.read_text(encoding="utf-8"))
        if {name: content[name] for name in work} != work:
            raise UserError(f"{output / shard.name} was made with another parser or policy; name another --output")
        total.merge(Summary.from_json(content["summary"]))
    return total


def _mask_shard(source: Path, target: Path, parser: Parser, policy: str, masked_field: str) -> Summary:
    summary = Summary()
    with atomic_path(target) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as out:
        for samples in _batches(_samples(source)):
            captions = [_caption(sample) for sample in samples]
            known = [caption for caption in captions if caption is not None]
            results = list(mask_captions(known, parser, policy))
            summary.add(known, results)
            summary.without_caption += len(samples) - len(known)
            masked = iter(results)
            for sample, caption in zip(samples, captions):
                if caption is not None:
                    sample = _with_field(sample, masked_field, next(masked).caption)
                for member in sample:
                    out.addfile(member.header, io.BytesIO(member.content))
    return summary


def _samples(shard: Path) -> Iterator[list[Member]]:
    try:
        with tarfile.open(shard) as archive:
            members = (Member(header, archive.extractfile(header).read()) for header in archive if header.isfile())
            for _, sample in groupby(members, key=lambda member: member.key):
                yield list(sample)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{shard} is damaged ({error}); fetch it again") from None


def _batches(samples: Iterator[list[Member]]) -> Iterator[list[list[Member]]]:
    batch: list[list[Member]] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _caption(sample: list[Member]) -> str | None:
    """The text member's content, else the JSON's caption; None without either or with a broken JSON."""
    contents = {member.ending: member.content for member in sample}
    fields = _fields(contents["json"]) if "json" in contents else {}
    if fields is None:
        return None
    if "txt" in contents:
        return contents["txt"].decode("utf-8", errors="replace")
    caption = fields.get("caption")
    return caption if isinstance(caption, str) else None


def _fields(content: bytes) -> dict | None:
    try:
        fields = json.loads(content)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _with_field(sample: list[Member], name: str, value: str) -> list[Member]:
    place = next((i for i, member in enumerate(sample) if member.ending == "json"), None)
    fields = {} if place is None else _fields(sample[place].content)
    content = json.dumps({**fields, name: value}).encode()
    if place is None:
        header = tarfile.TarInfo(sample[0].key.removeprefix("/") + ".json")
    else:
        header = sample[place].header
    header.size = len(content)
    member = Member(header, content)
    return [*sample, member] if place is None else [*sample[:place], member, *sample[place + 1 :]]
