"""What is there of each data set, what is missing, counts against the published sizes, and the next command.

Benchmarks are read by the very loaders of the evaluation, so a data set that passes here evaluates.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.base import Benchmark
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
    sizes: dict[str, tuple[int, int | None]]  # None: not known
    section: str  # of data/README.md
    drawn: bool = False  # the sizes hang on a draw and are met only roughly
    also: dict[str, tuple[Any, tuple[int, int]]] = field(default_factory=dict)  # further split -> options, sizes


_GENECIS: dict[str, tuple[int, int | None]] = {
    "change_attribute": (2_112, None),
    "focus_object": (1_960, None),
    "change_object": (1_960, None),
}
_IMAGENET_R = (10_000, 16_983)
_DOMAINS = "NICO++, Mini-DomainNet, LTLL, ImageNet-R"
PUBLISHED = {
    "cirr": Published("CIRR validation", {"all": (4_181, 2_297)}, "CIRR"),
    "cirr_test": Published("CIRR test1", {"all": (4_148, 2_315)}, "CIRR"),
    "fashion": Published(
        "FashionIQ validation",
        {"dress": (2_017, 3_817), "shirt": (2_038, 6_346), "toptee": (1_961, 5_373)},
        "FashionIQ",
    ),
    "imgnet": Published(
        "ImageNet to ImageNet-R",
        dict.fromkeys(("cartoon", "origami", "toy", "sculpture"), _IMAGENET_R),
        "ImageNet and ImageNet-R",
    ),
    "coco": Published("COCO composition", {"all": (4_766, 4_766)}, "COCO", drawn=True),
    "circo": Published(
        "CIRCO validation (beyond the paper)",
        {"all": (220, 123_403)},
        "CIRCO",
        also={"test": (CIRCOOptions(split="test"), (800, 123_403))},
    ),
    "genecis": Published("GeneCIS (beyond the paper)", _GENECIS, "GeneCIS"),
    "icir": Published("i-CIR (beyond the paper): 1,883 queries, about 750,000 images", {}, "i-CIR"),
    "nico": Published("NICO++ (beyond the paper): 8,722 queries, 80,133 images", {}, _DOMAINS),
    "minidn": Published("Mini-DomainNet (beyond the paper): 2,519 queries", {}, _DOMAINS),
    "ltll": Published("LTLL (beyond the paper): 488 images", {}, _DOMAINS),
    "imagenet-r-all": Published("ImageNet-R, all domains (beyond the paper)", {}, _DOMAINS),
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
        # the loader's own remedy points back here
        trouble = str(error).split("; see data/README.md")[0]
        state = ABSENT if trouble.startswith("no ") else INCOMPLETE
        return Finding(name, published.title, state, [trouble], _remedy(name, data_root))
    sizes = {group.name: (len(group.query_ids), len(group.gallery)) for group in benchmark.groups}
    lines, as_published = _compare(sizes, published)
    lines += [_also(name, data_root, split, *wanted) for split, wanted in published.also.items()]
    bad = _bad_images(benchmark, decode, progress)
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
    return Finding(name, published.title, COMPLETE if as_published else DIFFERENT, lines, command)


def _compare(sizes: dict[str, tuple[int, int]], published: Published) -> tuple[list[str], bool]:
    lines, same = [], True
    for group, (queries, gallery) in sizes.items():
        line = f"{group}: {queries:,} queries, {gallery:,} gallery images"
        expected = published.sizes.get(group)
        if expected is None:
            lines.append(line)
        elif published.drawn:
            near = abs(queries - expected[0]) <= 0.01 * expected[0]
            same &= near
            lines.append(f"{line} (published: about {expected[0]:,}, by an unseeded draw)")
        elif (queries, gallery) == (expected[0], expected[1] or gallery):
            lines.append(f"{line}, as published")
        else:
            same = False
            lines.append(f"{line} (published: {' and '.join(f'{size:,}' for size in expected if size)})")
    return lines, same


def _also(name: str, data_root: Path, split: str, options: Any, expected: tuple[int, int]) -> str:
    """One line on a split that is evaluated apart."""
    try:
        (group,) = BENCHMARKS[name].load(str(data_root), options).groups
    except (UserError, OSError) as error:
        return f"{split}: {str(error).split('; see data/README.md')[0]}"
    return _compare({split: (len(group.query_ids), len(group.gallery))}, Published("", {split: expected}, ""))[0][0]


def _bad_images(benchmark: Benchmark, decode: bool, progress: Progress) -> list[tuple[str, str]]:
    paths = sorted({s.path for group in benchmark.groups for s in (*group.gallery, *group.references)})
    bad = []
    for path in progress(paths):
        if not os.path.isfile(path):
            bad.append((path, "no such file"))
        elif decode:
            try:
                open_image(path)
            except BrokenImage as error:
                bad.append((path, error.reason))
    return bad


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
    title, listed = f"Conceptual Captions 3M, {split}", cc / cc3m.LIST_FILES[split]
    source, links = cc / cc3m.GOOGLE_FILES[split], cc3m.PUBLISHED_ROWS[split]
    finding = Finding("cc3m", title, ABSENT)
    if source.is_file():
        finding.state = INCOMPLETE
        with open(source, "rb") as file:
            finding.lines.append(f"{source}: {sum(1 for _ in file):,} links (published: {links:,})")
        finding.next = "python scripts/prepare_cc3m.py download --run"
    else:
        finding.lines.append(f"no {source}")
        finding.next = "docs/data.md"
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
    use = use if split == "train" else "--val-data={} in training (docs/training.md)"
    _check_masked_shards(finding, images.with_name(f"{images.name}_masked"), shards, use)
    if listed.is_file():
        _check_list(finding, listed, samples, use)
    return finding


def _check_masked_shards(finding: Finding, masked: Path, unmasked: int, use: str) -> None:
    """Shards once masked; each appears when it is finished."""
    if shards := sum(1 for _ in masked.glob("*.tar")):
        finding.lines.append(f"{masked}: {shards:,} shards with masked captions")
        whole = shards >= unmasked
        finding.state = COMPLETE if whole else INCOMPLETE
        if whole:
            finding.next = use.format(masked)


def _check_list(finding: Finding, path: Path, samples: int, use: str) -> None:
    try:
        table = read_table(path, "\t", errors="replace")
    except UserError as error:
        finding.state = INCOMPLETE
        finding.lines.append(str(error))
        return
    columns, rows = table.columns, table.columns.get("filepath", [])
    finding.lines.append(f"{path}: {len(rows):,} pairs, columns {', '.join(columns)}")
    chosen = rows[:: max(1, len(rows) // samples)]
    missing = [row for row in chosen if not os.path.isfile(row)]
    finding.state = INCOMPLETE
    if not rows or missing:
        finding.lines.append(f"of {len(chosen):,} images looked for {len(missing):,} are missing")
    elif cc3m.MASKED_COLUMN not in columns:
        finding.next = f"python scripts/mask_captions.py {path}"
    else:
        finding.state = COMPLETE
        finding.next = use.format(path)
