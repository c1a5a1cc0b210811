"""Adds the masked-caption column to a list: TSV, CSV or Parquet; stopped, it goes on where it was.

Finished parts of PART_ROWS captions wait in a folder beside the output until the last one is done; then
the list is written whole and the folder goes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from context_i2w.errors import UserError
from context_i2w.files import atomic_path, write_text
from context_i2w.preparation.masking.rules import Parser, mask_captions
from context_i2w.preparation.masking.summary import Summary

PART_ROWS = 20_000
MASKED_COLUMN = "masked_title"
CAPTION_COLUMNS = ("title", "caption")
GOOGLE_COLUMNS = ["caption", "url"]  # of Google's own TSV, which has no header


@dataclass(frozen=True)
class CaptionList:
    """A list in memory and how it was written, so that it is written the same way again."""

    table: pd.DataFrame
    caption_column: str
    separator: str | None  # None: Parquet
    had_header: bool


def read_list(path: Path, caption_column: str | None = None) -> CaptionList:
    """Reads a list as text. A TSV whose first line is `caption<TAB>url` without names is Google's own.

    Raises UserError if it cannot be read or has no caption column, naming the columns found.
    """
    try:
        if path.suffix == ".parquet":
            table, separator, has_header = pd.read_parquet(path), None, True
        else:
            separator, has_header = _describe(path)
            table = _read_text(path, separator, has_header)
    except FileNotFoundError:
        raise UserError(f"{path}: no such list") from None
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; `pip install pyarrow`") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a list with columns and rows ({str(error).strip()})") from None
    wanted = [caption_column] if caption_column else CAPTION_COLUMNS
    column = next((name for name in wanted if name in table.columns), None)
    if column is None:
        found = ", ".join(map(repr, table.columns))
        raise UserError(f"{path}: no column {' or '.join(map(repr, wanted))}; found {found}; give --caption-column")
    return CaptionList(table, column, separator, has_header)


def _describe(path: Path) -> tuple[str, bool]:
    """Separator and whether there is a header, from the first line."""
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.readline().rstrip("\r\n")
    separator = "\t" if "\t" in first else ","
    fields = first.split("\t")
    return separator, not (len(fields) == 2 and fields[1].startswith(("http://", "https://")))


def _read_text(path: Path, separator: str, has_header: bool) -> pd.DataFrame:
    options = {} if has_header else {"header": None, "names": GOOGLE_COLUMNS, "quoting": 3}
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding_errors="replace", **options)


def mask_list(
    source: Path,
    output: Path,
    parser: Parser,
    policy: str,
    *,
    caption_column: str | None = None,
    masked_column: str = MASKED_COLUMN,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Writes `source` with the masked column to `output` (which may be `source`); returns what was done.

    progress(done, total) is told after each part. Raises UserError if the column exists and `overwrite` is not
    set, or if an unfinished run with other options waits beside the output.
    """
    captions_list = read_list(source, caption_column)
    table = captions_list.table
    if masked_column in table.columns and not overwrite:
        raise UserError(f"{source} has a column {masked_column!r} already; add --overwrite to make it anew")
    captions = table[captions_list.caption_column].fillna("").astype(str).tolist()
    parts = output.with_name(output.name + ".masking")
    _claim(parts, captions, parser, policy)
    masked: list[str] = []
    summary = Summary()
    for number, begin in enumerate(range(0, len(captions), PART_ROWS)):
        part = parts / f"{number:05d}.json"
        if not part.exists():
            _mask_part(part, captions[begin : begin + PART_ROWS], parser, policy)
        content = json.loads(part.read_text(encoding="utf-8"))
        masked += content["masked"]
        summary.merge(Summary.from_json(content["summary"]))
        progress(len(masked), len(captions))
    _write(output, captions_list, table.assign(**{masked_column: masked}))
    shutil.rmtree(parts)
    return summary


def _claim(parts: Path, captions: list[str], parser: Parser, policy: str) -> None:
    """Makes the folder of parts for exactly this work."""
    digest = hashlib.sha256("\n".join(captions).encode("utf-8", "replace")).hexdigest()
    work = json.dumps({"captions": digest, "parser": parser.name, "policy": policy, "rows": PART_ROWS}, indent=1)
    settings = parts / "settings.json"
    if settings.exists() and settings.read_text() != work:
        raise UserError(f"{parts} holds an unfinished run with another list, parser or policy; finish or delete it")
    write_text(settings, work)


def _mask_part(part: Path, captions: list[str], parser: Parser, policy: str) -> None:
    results = list(mask_captions(captions, parser, policy))
    summary = Summary()
    summary.add(captions, results)
    content = {"masked": [result.caption for result in results], "summary": summary.as_json()}
    write_text(part, json.dumps(content))


def _write(output: Path, captions_list: CaptionList, table: pd.DataFrame) -> None:
    with atomic_path(output) as temporary:
        if captions_list.separator is None:
            table.to_parquet(temporary, index=False)
        else:
            # always with a header: the new column has to be found by its name
            table.to_csv(temporary, sep=captions_list.separator, index=False, lineterminator="\n")
