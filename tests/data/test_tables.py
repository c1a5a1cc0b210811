"""Lists as people have them: every case has its right rows, or a line that names what is wrong."""

import contextlib
import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context_i2w.data.pairs import read_pair_list
from context_i2w.data.tables import Table, read_table, write_table
from context_i2w.errors import UserError

CASES = Path(__file__).parent / "cases"


def table_of(tmp_path, content):
    path = tmp_path / "list"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path)


def rows_of(tmp_path, content):
    return list(zip(*table_of(tmp_path, content).columns.values()))


def test_lone_quotes_stand_for_themselves():
    table = read_table(CASES / "list_two_quotes.tsv")
    assert len(table) == 12
    assert table.columns["title"][3] == '"the city at night'
    assert table.columns["title"][8] == 'a cat on the "sofa'
    google = read_table(CASES / "google_with_header_two_quotes.tsv")
    assert len(google) == 12
    assert google.columns["caption"][3] == '" the city at night'
    assert google.columns["url"][11] == "https://example.org/11.jpg"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("list_tab_in_first_caption.tsv", "line 2: 3 columns, more columns than the header's 2"),
        ("list_windows1252.tsv", r"line 5: not UTF-8 \(byte 0xe9; WINDOWS-1252\?\); convert it, as `iconv"),
    ],
)
def test_what_would_lose_data_is_refused_by_its_line(name, message):
    with pytest.raises(UserError, match=message):
        read_table(CASES / name)


@pytest.mark.parametrize("name", ["train_list.csv", "train_list.parquet"])
def test_formats_are_found_out_in_training(name):
    pairs = read_pair_list(CASES / name)
    assert len(pairs) == 12
    assert pairs.images[3].endswith("lists/img/3.jpg")
    assert pairs.masked[1] == "red <|replace|>"


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("a\tb\n1\tx\ry\n2\tz\n", [("1", "x\ry"), ("2", "z")]),  # a bare CR is part of a caption
        ("a\tb\r\n1\tx\r\n", [("1", "x")]),
        ("a\tb\r1\tx\r", [("1", "x")]),
        ("\ufeffa\tb\n1\tx\n\n2\ty", [("1", "x"), ("2", "y")]),
        ('a\tb\n1\t"x\ty ""z"""\n', [("1", 'x\ty "z"')]),
        ('a\tb\n1\t"x\ny"\n2\tz\n', [("1", "x\ny"), ("2", "z")]),  # the lines alone are no rows
        ('a,b\n1,"x, y"\n', [("1", "x, y")]),
        ('a,b\n1,"x,\ny"\n', [("1", "x,\ny")]),
        ('a,b\n1,"the city\n2,on the "sofa\n', [("1", '"the city'), ("2", 'on the "sofa')]),
        ("a\tb\tc\n1\tx\n", [("1", "x", "")]),
        ('"a"\t"b"\n1\tx\n', [("1", "x")]),
        ('a "dog" x\thttp://x/1\n"a cat"\thttp://x/2\n', [('a "dog" x', "http://x/1"), ('"a cat"', "http://x/2")]),
        (gzip.compress(b"a\tb\n1\tx\n", mtime=0), [("1", "x")]),
        ("a\tb\n1\t" + "x" * 200_000 + "\n", [("1", "x" * 200_000)]),
        ("a\tb\n1\tx\0\n", [("1", "x\0")]),
    ],
)
def test_rows(tmp_path, content, rows):
    assert rows_of(tmp_path, content) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        (b"\xff\xfea\0\n\0", "line 1: not UTF-8 .*UTF-16"),
        ('a,b\n1,"x\n2,y"\n', "line 2: its quotes are not closed"),  # one row or two
        ('a\tb\n1\t"x\n2\ty\n3\n', "line 2: its quotes are not closed"),
        ("a\ta\n1\tx\n", "their own names"),
        (b"PAR1 or not", "not a Parquet file"),
        (b"\x1f\x8bnot gzip", "can't be read"),
    ],
)
def test_what_can_be_read_in_two_ways_or_none_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        table_of(tmp_path, content)


def test_a_separator_is_one_character(tmp_path):
    with pytest.raises(UserError, match=r"--separator '\(\('"):
        read_table(CASES / "train_list.csv", "((")
    (tmp_path / "a").write_text("a;b\n1;x,y\n")
    assert read_table(tmp_path / "a", ";").columns == {"a": ["1"], "b": ["x,y"]}


def test_hidden_files_are_no_images(tmp_path, capsys):
    (tmp_path / "l.tsv").write_text("filepath\ttitle\tmasked_title\na/._1.jpg\tx\ty\na/1.jpg\tx\tz\n")
    pairs = read_pair_list(tmp_path / "l.tsv")
    assert list(pairs.masked) == ["z"]
    assert "1 rows name hidden files (a/._1.jpg)" in capsys.readouterr().err


CELLS = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda text: not text.endswith("\r"))


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), st.sampled_from("\t,"))
@settings(deadline=None)
def test_what_is_written_reads_back(tmp_path_factory, rows, separator):
    """But for cells that could be read in two ways, which reading refuses."""
    path = tmp_path_factory.mktemp("t") / "list"
    path.touch()
    table = Table(
        path, {"n": [*map(str, range(len(rows)))], "a": [a for a, _ in rows], "b": [b for _, b in rows]}, separator
    )
    write_table(table, path)
    with contextlib.suppress(UserError):
        assert read_table(path, separator).columns == table.columns
