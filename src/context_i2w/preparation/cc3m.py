"""Conceptual Captions 3M: the command that fetches it, and the training lists made from what it fetched.

img2dataset's default resize mode, `border`, pads images to squares with white: borders that a mapper learns and no
benchmark image has. `keep_ratio` only shrinks, to 288 pixels: crops of 0.9-1.0 of the area at 224 never enlarge.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from context_i2w.command_line import Options, option
from context_i2w.data.tables import Table, read_table, write_table
from context_i2w.errors import UserError
from context_i2w.files import atomic_path, is_hidden, list_some, misfit, read_json

SPLITS = ("train", "val")
GOOGLE_FILES = {"train": "Train_GCC-training.tsv", "val": "Validation_GCC-1.1.0-Validation.tsv"}
LIST_FILES = {"train": "Train_GCC-training_output.csv", "val": "Validation_GCC-1.1.0-Validation_output.csv"}
PUBLISHED_ROWS = {"train": 3_318_333, "val": 15_840}
MASKED_COLUMN = "masked_title"
STATS = {"count": int, "successes": int, "status_dict?": {str: int}}
_IMAGE_ENDINGS = ("jpg", "png", "webp")


@dataclass(frozen=True)
class DownloadOptions(Options):
    """How images are fetched."""

    shards: bool = option(False, "WebDataset shards instead of files")
    image_size: int = option(288, "shorter side in pixels", at_least=1)
    processes: int = option(16, "of img2dataset", at_least=1)
    threads: int = option(64, "of img2dataset", at_least=1)


def read_header(path: Path) -> list[str]:
    """The columns of a caption list, `caption` and `url` for Google's headerless file. Raises UserError."""
    try:
        with open(path, "rb") as file:
            fields = file.readline(1 << 20).decode("utf-8-sig").rstrip("\r\n").split("\t")
    except UnicodeDecodeError:
        raise UserError(f"{path}: its first line is not UTF-8; is it the list of captions and links?") from None
    except FileNotFoundError:
        names = " and ".join(GOOGLE_FILES.values())
        remedy = f"Google's page of Conceptual Captions has it as {names} (docs/data.md)"
        raise UserError(f"{path} is missing; {remedy}") from None
    if len(fields) == 2 and fields[1].startswith(("http://", "https://")):
        return []
    if not {"caption", "url"} <= set(fields):
        raise UserError(f"{path}: the columns caption and url are needed; found {list_some([*map(repr, fields)])}")
    return fields


def with_header(source: Path, target: Path) -> Path:
    """A copy of Google's file with the header and the quoting that img2dataset needs; kept if it is there."""
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    table = read_table(source, "\t")
    with atomic_path(target) as temporary:
        write_table(replace(table, zipped=False), temporary)
    return target


def download_command(source: Path, output: Path, columns: list[str], options: DownloadOptions) -> list[str]:
    """img2dataset's command line for a list with the columns caption and url.

    A masked-caption column travels along in the samples' JSON.
    """
    command = [
        "img2dataset", "--input_format", "tsv", "--url_list", str(source), "--url_col", "url",
        "--caption_col", "caption", "--output_folder", str(output),
        "--output_format", "webdataset" if options.shards else "files",
        "--resize_mode", "keep_ratio", "--resize_only_if_bigger", "True", "--image_size", str(options.image_size),
        "--encode_quality", "95", "--processes_count", str(options.processes),
        "--thread_count", str(options.threads), "--incremental_mode", "incremental", "--enable_wandb", "False",
    ]  # fmt: skip
    if MASKED_COLUMN in columns:
        command += ["--save_additional_columns", json.dumps([MASKED_COLUMN])]
    return command


@dataclass(frozen=True)
class DownloadReport:
    """Sums over the `*_stats.json` files: links tried, images fetched, the commonest reasons of failure."""

    tried: int
    fetched: int
    reasons: dict[str, int]

    def text(self) -> str:
        share = 100 * self.fetched / max(self.tried, 1)
        failures = ", ".join(f"{reason}: {count:,}" for reason, count in list(self.reasons.items())[:5])
        answered = f"{self.fetched:,} of {self.tried:,} links answered ({share:.1f} %)"
        return f"{answered}; failures: {failures}" if failures else answered


def read_report(folder: Path) -> DownloadReport:
    """What img2dataset reports of a download. Raises UserError if the folder is not its output."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; run the download first (`python scripts/prepare_cc3m.py download`)")
    paths = sorted(path for path in folder.glob("*_stats.json") if not is_hidden(path))
    if not paths:
        raise UserError(f"{folder} holds no *_stats.json; it is no output of img2dataset, or none has finished")
    parts = [read_json(path, STATS, "delete it and run the download again") for path in paths]
    reasons = sum((Counter(part.get("status_dict", {})) for part in parts), Counter())
    del reasons["success"]
    tried, fetched = (sum(part[name] for part in parts) for name in ("count", "successes"))
    return DownloadReport(tried, fetched, dict(reasons.most_common()))


def make_list(folder: Path, target: Path, progress=lambda items: items) -> tuple[int, int]:
    """Writes the tab-separated list of a download in files: filepath, title and, where known, the masked title.

    Rows are in the order of the files' names. Returns how many rows were written and how many images were left
    out for want of a caption. Raises UserError if there are no images (shards need no list).
    """
    names, without_caption = ["filepath", "title"], 0
    rows: list[list[str]] = []
    for image in progress(_images(folder)):
        sample = _read_sample(image)
        if sample is None:
            without_caption += 1
            continue
        if not rows and MASKED_COLUMN in sample:  # whether the download carried masked captions
            names.append(MASKED_COLUMN)
        rows.append([image.as_posix(), _one_line(sample["caption"]), _one_line(sample.get(MASKED_COLUMN))])
    if not rows:
        hint = "shards need no list: train on them as they are" if any(folder.glob("*.tar")) else "no images"
        raise UserError(f"{folder}: {hint}")
    with atomic_path(target) as temporary:
        write_table(Table(target, {name: list(cells) for name, cells in zip(names, zip(*rows))}, "\t"), temporary)
    return len(rows), without_caption


def _images(folder: Path) -> Iterator[Path]:
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = [path for ending in _IMAGE_ENDINGS for path in part.glob(f"*.{ending}") if not is_hidden(path)]
        yield from sorted(found)


def _read_sample(image: Path) -> dict | None:
    """The image's JSON, the caption taken from the text file if it is there; None without a caption."""
    try:
        sample = read_json(image.with_suffix(".json"), {})
    except UserError:
        sample = {}
    text = image.with_suffix(".txt")
    if text.is_file():
        sample["caption"] = text.read_text(encoding="utf-8", errors="replace")
    return None if misfit(sample, {"caption": str}) or not sample["caption"].strip() else sample


def _one_line(text: Any) -> str:
    """A cell that stands in one line of a list; empty for what is no text."""
    return "" if misfit(text, str) else re.sub(r"[\r\n]+", " ", text)
