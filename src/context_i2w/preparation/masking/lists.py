"""Adds the masked-caption column to a list: TSV, CSV or Parquet; stopped, it goes on where it was.

Finished parts of PART_ROWS captions wait in a folder beside the output until the last one is done; then the list is
written whole, read back and compared with what was read, and only then takes its place; the folder goes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from context_i2w.data.tables import Table, read_table, write_table
from context_i2w.errors import UserError
from context_i2w.files import atomic_path, read_json, write_text
from context_i2w.preparation.masking.rules import Parser, mask_captions
from context_i2w.preparation.masking.summary import SUMMARY, Summary

PART_ROWS = 20_000
MASKED_COLUMN = "masked_title"
CAPTION_COLUMNS = ("title", "caption")
PART = {"masked": [str], "summary": SUMMARY}


def mask_list(
    source: Path,
    output: Path,
    parser: Parser,
    policy: str,
    *,
    column: str | None = None,
    masked_column: str = MASKED_COLUMN,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Writes `source` with the masked column to `output` (which may be `source`); returns what was done.

    column: of the captions; title or caption if left out. progress(done, total) is told after each part.
    Raises UserError if the column exists and `overwrite` is not set, if an unfinished run with other options waits
    beside the output, or if the list can't be read without doubt; it is then left as it was.
    """
    table = read_table(source)
    captions = table.captions(*([column] if column else CAPTION_COLUMNS))
    if masked_column in table.columns and not overwrite:
        raise UserError(f"{source} has a column {masked_column!r} already; add --overwrite to make it anew")
    parts = output.with_name(output.name + ".masking")
    _claim(parts, captions, parser, policy)
    masked: list[str] = []
    summary = Summary()
    for number, begin in enumerate(range(0, len(captions), PART_ROWS)):
        part, rows = parts / f"{number:05d}.json", captions[begin : begin + PART_ROWS]
        if not part.exists():
            results = list(mask_captions(rows, parser, policy))
            done = {"masked": [result.caption for result in results], "summary": Summary.of(rows, results).as_json()}
            write_text(part, json.dumps(done))
        content = read_json(part, PART, f"delete {parts} and run again")
        if len(content["masked"]) != len(rows):
            raise UserError(f"{part}: not as many captions as the list has; delete {parts} and run again")
        masked += content["masked"]
        summary.merge(Summary.from_json(content["summary"]))
        progress(len(masked), len(captions))
    _write(replace(table, columns={**table.columns, masked_column: masked}), output, masked_column)
    shutil.rmtree(parts)
    return summary


def _claim(parts: Path, captions: list[str], parser: Parser, policy: str) -> None:
    """Makes the folder of parts for exactly this work."""
    digest = hashlib.sha256("\n".join(captions).encode("utf-8", "replace")).hexdigest()
    work = json.dumps({"captions": digest, "parser": parser.name, "policy": policy, "rows": PART_ROWS}, indent=1)
    settings = parts / "settings.json"
    if settings.exists() and settings.read_bytes() != work.encode():
        raise UserError(f"{parts} holds an unfinished run with another list, parser or policy; finish or delete it")
    write_text(settings, work)


def _write(table: Table, output: Path, masked_column: str) -> None:
    """Puts the list in its place once what was written reads back as what was meant, row by row."""
    with atomic_path(output) as temporary:
        if table.separator is None:
            _write_parquet(table, temporary, masked_column)
        else:
            write_table(table, temporary)
        if read_table(temporary, table.separator).columns != table.columns:
            raise UserError(f"{output}: the list would not read back as it was, and is left as it is; is it damaged?")


def _write_parquet(table: Table, target: Path, masked_column: str) -> None:
    """The other columns keep their types."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    whole = parquet.read_table(table.path)
    whole = whole.select([name for name in whole.column_names if name != masked_column])
    whole = whole.append_column(masked_column, pa.array(table.columns[masked_column], pa.string()))
    parquet.write_table(whole.select(list(table.columns)), target)
