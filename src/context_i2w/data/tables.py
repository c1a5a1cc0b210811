"""Lists as people have them, read in one place: TSV, CSV, Parquet, gzipped or not, with or without quotes.

A row of a text list is a line, and may be quoted as CSV is. Lone quotes, which captions have, stand for themselves; a
quoted cell may go over several lines only where the lines cannot be rows. What can be read in two ways is refused.
"""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from context_i2w.errors import UserError
from context_i2w.files import list_some, shown

csv.field_size_limit(1 << 30)
GOOGLE_COLUMNS = ["caption", "url"]  # of Google's own TSV of Conceptual Captions, which has no header


@dataclass(frozen=True)
class Table:
    """columns: name -> cells as text, all of one length. separator: None for Parquet."""

    path: Path
    columns: dict[str, list[str]]
    separator: str | None
    has_header: bool = True
    zipped: bool = False

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    @property
    def found(self) -> str:
        """The columns' names for an error."""
        return list_some([repr(name) for name in self.columns], 12)

    def captions(self, *names: str) -> list[str]:
        """The first of these columns that is there. Raises UserError."""
        for name in names:
            if name in self.columns:
                return self.columns[name]
        wanted = f"no column {' or '.join(map(repr, names))}; found {self.found}"
        raise UserError(f"{self.path}: {wanted}; give the right name with --caption-column")


def read_table(path: Path, separator: str | None = None, errors: str = "strict") -> Table:
    """Reads a list; its format goes by its content.

    separator: used if the first line has it; else a tab, else a comma. errors: "replace" reads bytes that are not
    UTF-8 as U+FFFD. Raises UserError naming the line that can't be read.
    """
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise UserError(f"--separator {shown(repr(separator))}: one character is expected, as ',' or a tab")
    content = _read(path)
    if content.startswith(b"PAR1"):
        return Table(path, _parquet_columns(path), None)
    lines = _decoded(content, path, errors)
    first = next((line for line in _lines(lines) if line), None)
    if first is None:
        raise UserError(f"{path}: not a list with columns and rows (it is empty)")
    separator = next((sep for sep in (separator, "\t", ",") if sep and sep in first), separator or "\t")
    names = _cells(first, separator)
    has_header = not (separator == "\t" and len(names) == 2 and names[1].startswith(("http://", "https://")))
    if not has_header:
        names = GOOGLE_COLUMNS
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"{path}: not a list with columns of their own names ({list_some(sorted(map(repr, twice)))})")
    cells = _columns(path, lines, separator, len(names), has_header)
    return Table(path, dict(zip(names, cells)), separator, has_header, _is_gzip(path))


def write_table(table: Table, target: Path) -> None:
    """Writes a text list with its header, quoted where `read_table` needs it, gzipped if the list was."""
    separator, opened = table.separator, gzip.open if table.zipped else open
    assert separator is not None  # a Parquet file is no text list
    with opened(target, "wt", encoding="utf-8", newline="") as file:
        for row in itertools.chain([table.columns], zip(*table.columns.values(), strict=True)):
            file.write(separator.join(_quoted(cell, separator) for cell in row) + "\n")


def _quoted(cell: str, separator: str) -> str:
    special = separator in cell or '"' in cell or "\n" in cell or "\r" in cell
    return '"' + cell.replace('"', '""') + '"' if special else cell


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: no such list")
    try:
        return gzip.decompress(path.read_bytes()) if _is_gzip(path) else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from None


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _decoded(content: bytes, path: Path, errors: str) -> str:
    try:
        text = content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        raise UserError(
            f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x}; {kind}?); "
            f"convert it, as `iconv -f {kind} -t UTF-8`"
        ) from None
    return text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")


def _parquet_columns(path: Path) -> dict[str, list[str]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; `pip install pyarrow`") from None
    try:
        columns = parquet.read_table(path).to_pydict()
    except Exception as error:  # damage can raise nearly anything
        raise UserError(f"{path}: not a Parquet file that can be read ({shown(str(error))})") from None
    return {name: ["" if cell is None else str(cell) for cell in cells] for name, cells in columns.items()}


def _lines(text: str) -> Iterator[str]:
    """Lines by `\\n` alone: a lone carriage return is part of a caption."""
    return (line.removesuffix("\n") for line in io.StringIO(text, newline="\n"))


def _cells(line: str, separator: str) -> list[str]:
    return line.split(separator) if '"' not in line else _unquoted(line, separator) or line.split(separator)


def _unquoted(line: str, separator: str) -> list[str] | None:
    """None if the line's quotes do not balance."""
    try:
        return next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error:
        return None


def _columns(path: Path, text: str, separator: str, width: int, has_header: bool) -> list[list[str]]:
    columns, faults = _read_lines(text, separator, width, has_header)
    odd = "short" in faults or "long" in faults
    if "unbalanced" in faults and (odd or separator != "\t"):
        spanning = _spanning(text, separator, width)
        if spanning and odd:
            return spanning
        if spanning or (odd and "long" not in faults):
            raise UserError(
                f"{path}, line {faults['unbalanced'][0]}: its quotes are not closed in the line; double lone quotes "
                'and put the cell between quotes ("a ""b"" c"), or remove them'
            )
    if "long" in faults:
        number, count = faults["long"]
        raise UserError(
            f"{path}, line {number}: {count} columns, more columns than the header's {width}; is there a "
            f"{'tab' if separator == chr(9) else repr(separator)} in a caption, or --separator wrong?"
        )
    return columns


def _read_lines(text: str, separator: str, width: int, has_header: bool) -> tuple[list[list[str]], dict]:
    """Columns of rows that are lines, and of each kind of fault the first line's number and how many cells it has."""
    columns: list[list[str]] = [[] for _ in range(width)]
    faults: dict[str, tuple[int, int]] = {}
    numbered = ((number, line) for number, line in enumerate(_lines(text), 1) if line)
    for number, line in itertools.islice(numbered, has_header, None):
        # Google's quotes are its captions' own
        cells = _unquoted(line, separator) if has_header and '"' in line else line.split(separator)
        if cells is None:
            cells = line.split(separator)
            faults.setdefault("unbalanced", (number, len(cells)))
        if len(cells) != width:
            faults.setdefault("long" if len(cells) > width else "short", (number, len(cells)))
            cells = cells + [""] * (width - len(cells))
        for column, cell in zip(columns, cells):
            column.append(cell)
    return columns, faults


def _spanning(text: str, separator: str, width: int) -> list[list[str]] | None:
    """Columns where quoted cells may hold line breaks; None unless every row fits the header."""
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=separator, strict=True)
    try:
        rows = [row for row in reader if row][1:]
    except csv.Error:
        return None
    return [list(column) for column in zip(*rows)] if rows and all(len(row) == width for row in rows) else None
