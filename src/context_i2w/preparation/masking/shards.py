"""Adds masked captions to WebDataset shards: each sample's `.json` gains the field `masked_title`.

A shard is rewritten to another folder, whole or not at all, and its summary beside it; finished shards are
skipped, so a stopped run goes on where it was. All other members keep their bytes and order; hidden ones are left out.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Literal, NamedTuple

from context_i2w.data.shard_files import (
    DAMAGE,
    BrokenShard,
    expand_shards,
    files_of_sizes,
    is_local,
    members,
    open_shard,
    read_member,
)
from context_i2w.errors import UserError
from context_i2w.files import atomic_path, file_state, list_some, note, read_json, write_text
from context_i2w.preparation.masking.lists import MASKED_COLUMN
from context_i2w.preparation.masking.rules import Parser, mask_captions
from context_i2w.preparation.masking.summary import SUMMARY, Summary

_BATCH = 2_000


class Member(NamedTuple):
    """A file of a tar: its header and bytes; `name` is its sample's."""

    header: tarfile.TarInfo
    content: bytes
    name: str
    ending: str


def find_shards(patterns: Iterable[str]) -> list[Path]:
    """Shards by folder, path or brace pattern (`{00000..00331}.tar`). Raises UserError if any is missing."""
    shards = [shard for pattern in patterns for shard in expand_shards(pattern)]
    remote = [shard for shard in shards if not is_local(shard)]
    if remote:
        raise UserError(f"{list_some(remote)}: only local shards are rewritten; fetch them first")
    names = [Path(shard).name for shard in shards]
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        trouble = f"two shards are called {list_some(twice)}, and would become one"
        raise UserError(f"{trouble}; mask their folders one by one")
    return [Path(shard) for shard in shards]


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

    A shard whose source has changed since is masked anew.
    Raises UserError for a damaged shard, an output that is the input, or shards there made with other options.
    """
    if any(shard.resolve().parent == output.resolve() for shard in shards):
        raise UserError(f"--output {output} is the folder of the shards themselves; name another")
    for source in dict.fromkeys(path for shard in shards for path in files_of_sizes(shard)):
        with atomic_path(output / source.name) as temporary:
            temporary.write_bytes(source.read_bytes())  # masking leaves no sample out
    work = {"parser": parser.name, "policy": policy, "field": masked_field}
    shape, total = {**dict.fromkeys(work, str), "source?": [int], "summary": SUMMARY}, Summary()
    for shard in progress(shards):
        target, report = output / shard.name, output / f"{shard.stem}_masking.json"
        state, content = [*file_state(shard)], None
        if target.exists() and report.exists():
            content = read_json(report, shape, "delete it, and the shard is masked again")
            if {name: content[name] for name in work} != work:
                raise UserError(f"{target} was made with another parser or policy; name another --output")
            if content.get("source", state) != state:
                note(f"{shard} has changed since it was masked; it is masked anew")
                content = None
        if content is None:
            summary = _mask_shard(shard, target, parser, policy, masked_field)
            content = {**work, "source": state, "summary": summary.as_json()}
            write_text(report, json.dumps(content))
        total.merge(Summary.from_json(content["summary"]))
    return total


def _mask_shard(source: Path, target: Path, parser: Parser, policy: str, masked_field: str) -> Summary:
    summary = Summary()
    mode: Literal["w", "w:gz"] = "w" if source.suffix == ".tar" else "w:gz"
    with atomic_path(target) as temporary, tarfile.open(temporary, mode, format=tarfile.PAX_FORMAT) as out:
        every = _samples(source)
        while samples := list(islice(every, _BATCH)):
            captions = [_caption(sample) for sample in samples]
            known = [caption for caption in captions if caption is not None]
            results = list(mask_captions(known, parser, policy))
            summary.merge(Summary.of(known, results, without_caption=len(samples) - len(known)))
            masked = iter(results)
            for sample, caption in zip(samples, captions):
                if caption is not None:
                    sample = _with_field(sample, masked_field, next(masked).caption)
                for member in sample:
                    out.addfile(member.header, io.BytesIO(member.content))
    return summary


def _samples(shard: Path) -> Iterator[list[Member]]:
    try:
        with open_shard(str(shard)) as archive:
            for _, sample in groupby(members(archive), key=lambda member: member[0]):
                yield [Member(header, read_member(archive, header), *names) for _, *names, header in sample]
    except (*DAMAGE, BrokenShard) as error:
        raise UserError(f"{shard} can't be read ({error}); mend it or fetch it again") from None


def _caption(sample: list[Member]) -> str | None:
    """The text member's content, else the JSON's caption; None without either or with a broken JSON."""
    contents = {member.ending: member.content for member in sample}
    fields = _fields(contents.get("json", b"{}"))
    if fields is None:
        return None
    caption = contents["txt"].decode("utf-8", errors="replace") if "txt" in contents else fields.get("caption")
    return caption if isinstance(caption, str) else None


def _fields(content: bytes) -> dict | None:
    try:
        fields = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _with_field(sample: list[Member], name: str, value: str) -> list[Member]:
    old = next((member for member in sample if member.ending == "json"), None)
    fields = _fields(old.content) or {} if old else {}
    content = json.dumps({**fields, name: value}).encode()
    header = old.header if old else tarfile.TarInfo(sample[0].name + ".json")
    header.size = len(content)
    header.pax_headers = {key: value for key, value in header.pax_headers.items() if key != "size"}
    member = Member(header, content, sample[0].name, "json")
    return [member if one is old else one for one in sample] if old else [*sample, member]
