"""What is there of each data set, what is missing, counts against the published sizes, and the next command.

Benchmarks are read by the very loaders of the evaluation, so a data set that passes here evaluates.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.base import QueryGroup
from context_i2w.benchmarks.imagenet_lists import DOMAINS
from context_i2w.benchmarks.options import CIRCOOptions
from context_i2w.data.tables import read_table
from context_i2w.errors import UserError
from context_i2w.files import write_text
from context_i2w.model.images import BrokenImage, open_image
from context_i2w.preparation import cc3m

COMPLETE, DIFFERENT, INCOMPLETE, ABSENT = "complete", "whole, but not of the published size", "incomplete", "absent"
LISTED = 5
Progress = Callable[[Iterable[str]], Iterable[str]]


@dataclass(frozen=True)
class Published:
    """A benchmark as published: what it is called, and (queries, gallery images) of each group."""

    title: str
    section: str  # of data/README.md
    sizes: dict[str, tuple[int, int | None]] = field(default_factory=dict)  # None: not known
    drawn: bool = False  # the sizes hang on a draw and are met only roughly
    also: dict[str, Any] = field(default_factory=dict)  # options of further splits that are evaluated apart


_DOMAINS = "NICO++, Mini-DomainNet, LTLL, ImageNet-R"
PUBLISHED = {
    "cirr": Published("CIRR validation", "CIRR", {"all": (4_181, 2_297)}),
    "cirr_test": Published("CIRR test1", "CIRR", {"all": (4_148, 2_315)}),
    "fashion": Published(
        "FashionIQ validation",
        "FashionIQ",
        {"dress": (2_017, 3_817), "shirt": (2_038, 6_346), "toptee": (1_961, 5_373)},
    ),
    "imgnet": Published("ImageNet to ImageNet-R", "ImageNet and ImageNet-R", dict.fromkeys(DOMAINS, (10_000, 16_983))),
    "coco": Published("COCO composition", "COCO", {"all": (4_766, 4_766)}, drawn=True),
    "circo": Published(
        "CIRCO validation (beyond the paper)",
        "CIRCO",
        {"all": (220, 123_403), "test": (800, 123_403)},
        also={"test": CIRCOOptions(split="test")},
    ),
    "genecis": Published(
        "GeneCIS (beyond the paper)",
        "GeneCIS",
        {"change_attribute": (2_112, None), "focus_object": (1_960, None), "change_object": (1_960, None)},
    ),
    "icir": Published("i-CIR (beyond the paper): 1,883 queries, about 750,000 images", "i-CIR"),
    "nico": Published("NICO++ (beyond the paper): 8,722 queries, 80,133 images", _DOMAINS),
    "minidn": Published("Mini-DomainNet (beyond the paper): 2,519 queries", _DOMAINS),
    "ltll": Published("LTLL (beyond the paper): 488 images", _DOMAINS),
    "imagenet-r-all": Published("ImageNet-R, all domains (beyond the paper)", _DOMAINS),
}


@dataclass
class Finding:
    """What was found of one data set; `lines` for people, `next` a command or where to read on."""

    name: str
    title: str
    state: str
    lines: list[str] = field(default_factory=list)
    next: str = ""

    def text(self) -> str:
        lines = [f"{self.title} ({self.name}): {self.state}", *(f"    {line}" for line in self.lines)]
        return "\n".join([*lines, f"    next: {self.next}"] if self.next else lines)


def check_benchmark(
    name: str, data_root: Path, decode: bool = False, progress: Progress = lambda paths: paths, options: Any = None
) -> Finding:
    """Loads a benchmark as the evaluation does and looks for each of its images.

    decode: also decode every image. Images that are missing or broken are listed in full in
    `data_root`/missing_<name>.txt.
    """
    published = PUBLISHED[name]
    try:
        benchmark = BENCHMARKS[name].load(str(data_root), options)
    except (UserError, OSError) as error:
        trouble = _without_remedy(error)
        state = ABSENT if trouble.startswith("no ") else INCOMPLETE
        return Finding(name, published.title, state, [trouble], _remedy(name, data_root))
    compared = [_compare(group.name, group, published) for group in benchmark.groups]
    lines = [line for line, _ in compared]
    lines += [_also(name, data_root, split, options) for split, options in published.also.items()]
    paths = sorted({s.path for group in benchmark.groups for s in (*group.gallery, *group.references)})
    bad = [(path, fault) for path in progress(paths) if (fault := _fault(path, decode))]
    listing = data_root / f"missing_{name}.txt"
    if bad:
        write_text(listing, "".join(f"{path}\t{reason}\n" for path, reason in bad))
        shown = ", ".join(path for path, _ in bad[:LISTED])
        lines.append(f"{len(bad):,} images missing or broken: {shown}{' ...' if len(bad) > LISTED else ''}")
        lines.append(f"all of them: {listing}")
        return Finding(name, published.title, INCOMPLETE, lines, _remedy(name, data_root))
    listing.unlink(missing_ok=True)
    lines.append("every image is there and decodes" if decode else "every image is there")
    command = f"python src/eval_retrieval.py --resume CHECKPOINT --eval-mode {name}"
    if data_root != Path("data"):
        command += f" --data-root {data_root}"
    return Finding(name, published.title, COMPLETE if all(same for _, same in compared) else DIFFERENT, lines, command)


def _compare(name: str, group: QueryGroup, published: Published) -> tuple[str, bool]:
    """A line on the sizes of a group, and whether they are as published, where that is known."""
    queries, gallery = len(group.query_ids), len(group.gallery)
    line = f"{name}: {queries:,} queries, {gallery:,} gallery images"
    expected = published.sizes.get(name)
    if expected is None:
        return line, True
    if published.drawn:
        near = abs(queries - expected[0]) <= 0.01 * expected[0]
        return f"{line} (published: about {expected[0]:,}, by an unseeded draw)", near
    if (queries, gallery) == (expected[0], expected[1] or gallery):
        return f"{line}, as published", True
    return f"{line} (published: {' and '.join(f'{size:,}' for size in expected if size)})", False


def _also(name: str, data_root: Path, split: str, options: Any) -> str:
    """One line on a split that is evaluated apart."""
    try:
        (group,) = BENCHMARKS[name].load(str(data_root), options).groups
    except (UserError, OSError) as error:
        return f"{split}: {_without_remedy(error)}"
    return _compare(split, group, PUBLISHED[name])[0]


def _without_remedy(error: Exception) -> str:
    """A loader's error: its remedy points back here."""
    return str(error).split("; see data/README.md")[0]


def _fault(path: str, decode: bool) -> str | None:
    try:
        if decode:
            open_image(path)
        return None if os.path.isfile(path) else "no such file"
    except BrokenImage as error:
        return error.reason


def _remedy(name: str, data_root: Path) -> str:
    """The command that makes the lists if the downloads are there, else where to read on."""
    coco, imagenet = data_root / "coco", data_root / "imgnet"
    if name == "coco" and (coco / "annotations/instances_val2017.json").is_file() and (coco / "val2017").is_dir():
        return f"python scripts/prepare_coco.py --coco {coco}"
    if name == "imgnet" and (imagenet / "imagenet-r").is_dir():
        return f"python scripts/prepare_imagenet.py --data-root {data_root} --imagenet-val FOLDER"
    return f"data/README.md, section {PUBLISHED[name].section}"


def check_cc3m(cc: Path, cc_data: Path, samples: int = 1_000) -> list[Finding]:
    """The training and the validation pairs, as lists or shards."""
    return [_check_split(split, cc, cc_data / split, samples) for split in cc3m.SPLITS]


def _check_split(split: str, cc: Path, images: Path, samples: int) -> Finding:
    source, listed = cc / cc3m.GOOGLE_FILES[split], cc / cc3m.LIST_FILES[split]
    finding = Finding("cc3m", f"Conceptual Captions 3M, {split}", ABSENT, [f"no {source}"], "docs/data.md")
    if source.is_file():
        with open(source, "rb") as file:
            links = sum(1 for _ in file)
        finding.lines = [f"{source}: {links:,} links (published: {cc3m.PUBLISHED_ROWS[split]:,})"]
        finding.state, finding.next = INCOMPLETE, "python scripts/prepare_cc3m.py download --run"
    shards, of_shards = len([*images.glob("*.tar")]), str(images)
    if not shards:  # the ready-made ones (docs/data.md)
        of_shards = f"{images.parent}/wds/*-{images.name}*.tar"
        shards = len([*images.parent.glob(f"wds/*-{images.name}*.tar")])
    try:
        finding.lines.append(f"{images}: {cc3m.read_report(images).text()}")
        finding.state, finding.next = INCOMPLETE, "python scripts/prepare_cc3m.py lists"
    except UserError:
        finding.lines.append(f"{of_shards}: {shards:,} shards" if shards else f"no finished download in {images}")
    if shards:
        finding.state = INCOMPLETE
        finding.next = f"python scripts/mask_captions.py {of_shards} --output {images}_masked"
    use = "python src/main.py --train-data={} --model ViT-L/14 --openai-pretrained (docs/training.md)"
    if split == "val":
        use = "--val-data={} in training (docs/training.md)"
    _check_masked_shards(finding, images.with_name(f"{images.name}_masked"), shards, use)
    if listed.is_file():
        _check_list(finding, listed, samples, use)
    return finding


def _check_masked_shards(finding: Finding, masked: Path, unmasked: int, use: str) -> None:
    """Shards once masked; each appears when it is finished."""
    if shards := len([*masked.glob("*.tar")]):
        finding.lines.append(f"{masked}: {shards:,} shards with masked captions")
        finding.state = INCOMPLETE
        if shards >= unmasked:
            finding.state, finding.next = COMPLETE, use.format(masked)


def _check_list(finding: Finding, path: Path, samples: int, use: str) -> None:
    finding.state = INCOMPLETE
    try:
        columns = read_table(path, "\t", errors="replace").columns
    except UserError as error:
        finding.lines.append(str(error))
        return
    rows = columns.get("filepath", [])
    finding.lines.append(f"{path}: {len(rows):,} pairs, columns {', '.join(columns)}")
    chosen = rows[:: max(1, len(rows) // samples)]
    missing = [row for row in chosen if not os.path.isfile(row)]
    if not rows or missing:
        finding.lines.append(f"of {len(chosen):,} images looked for {len(missing):,} are missing")
    elif cc3m.MASKED_COLUMN not in columns:
        finding.next = f"python scripts/mask_captions.py {path}"
    else:
        finding.state, finding.next = COMPLETE, use.format(path)
