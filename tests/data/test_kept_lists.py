"""Long lists are read once, shared by processes and read anew when they change."""

import os

import pytest

from context_i2w.data import kept_lists, pairs
from context_i2w.data.pairs import read_pair_list
from context_i2w.errors import UserError

HEADER = "filepath\ttitle\tmasked_title\n"


@pytest.fixture
def long_list(tmp_path, monkeypatch):
    """A list that counts as long, a function that opens it, and how often it was read."""
    monkeypatch.setattr(kept_lists, "LONG", 1)
    monkeypatch.setenv("CONTEXT_I2W_CACHE", str(tmp_path / "cache"))
    read = []
    real = pairs.read_table
    monkeypatch.setattr(pairs, "read_table", lambda *args, **options: read.append(1) or real(*args, **options))
    path = tmp_path / "list.tsv"
    path.write_text(HEADER + "".join(f"i/{row}.jpg\tx\tan é <|replace|> {row}\n" for row in range(300)))
    return path, lambda: read_pair_list(path), read


def rows_of(listed):
    return list(zip(listed.images, listed.masked, strict=True))


def test_a_long_list_is_read_once(long_list):
    _, opened, read = long_list
    first = rows_of(opened())
    assert rows_of(opened()) == first
    assert first[7] == ("i/7.jpg", "an é <|replace|> 7")
    assert read == [1]


def test_its_images_are_found_wherever_they_are_now(long_list, tmp_path):
    _, opened, _ = long_list
    assert opened().images[3] == "i/3.jpg"
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "3.jpg").touch()
    assert opened().images[3] == str(tmp_path / "i" / "3.jpg")


def test_a_changed_or_damaged_one_is_read_anew(long_list, tmp_path):
    path, opened, read = long_list
    before = opened()
    path.write_text(HEADER + "a.jpg\tx\tnew <|replace|>\n")
    os.utime(path, ns=(1, 1))
    assert rows_of(opened()) == [("a.jpg", "new <|replace|>")]
    assert before.masked[299] == "an é <|replace|> 299"  # whoever holds the old one still has it
    (packed,) = (tmp_path / "cache").rglob("1/bytes.npy")
    packed.write_bytes(packed.read_bytes()[:-3])
    assert rows_of(opened()) == [("a.jpg", "new <|replace|>")]
    assert len(read) == 3
    path.write_text("filepath\ttitle\n")
    with pytest.raises(UserError, match="masked_title"):
        opened()


def test_without_a_cache_folder_it_stays_in_memory(long_list, tmp_path, capsys):
    _, opened, read = long_list
    (tmp_path / "cache").touch()
    assert len(opened()) == len(opened()) == 300
    assert read == [1, 1]
    assert "CONTEXT_I2W_CACHE" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bytes.npy", "ends.npy"])
def test_a_flipped_bit_in_what_is_kept_is_noticed(long_list, tmp_path, name):
    _, opened, read = long_list
    first = rows_of(opened())
    kept = next((tmp_path / "cache").rglob(name))
    content = bytearray(kept.read_bytes())
    content[-5] ^= 1
    kept.write_bytes(content)
    assert rows_of(opened()) == first
    assert read == [1, 1]
