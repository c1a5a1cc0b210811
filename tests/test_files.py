"""Whole files or none, on disks that are full, read-only or shared; locks; checksums; declared shapes."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from context_i2w import files
from context_i2w.errors import UserError, one_line
from context_i2w.files import FileName, atomic_folder, atomic_path, checksum, locked, misfit, read_json, write_text


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(TypeError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes("half")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def save_torch(path):
    with open(path, "wb") as file:  # PyTorch's own writer gives no reason
        torch.save({"a": torch.zeros(100_000)}, file)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_torch(path),
        lambda path: save_file({"a": torch.zeros(100_000)}, path),
        lambda path: path.write_bytes(b"x" * 400_000),
    ],
)
def test_a_full_disk_is_one_line_and_no_data_lost(tmp_path, write):
    """RLIMIT_FSIZE stands for the full disk: writing on gives an error of the system in mid-file."""
    write_text(tmp_path / "a", "old")
    import resource
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="can't be written"), atomic_path(tmp_path / "a") as temporary:
            write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_no_such_place_is_one_line():
    with pytest.raises(UserError, match="/proc/nowhere/a: can't be written"):
        write_text(Path("/proc/nowhere/a"), "text")


def test_files_have_the_umasks_mode_whoever_writes_them(tmp_path):
    before = os.umask(0o022)
    try:
        with atomic_path(tmp_path / "a") as temporary:
            save_file({"a": torch.zeros(2)}, temporary)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_link_is_written_through(tmp_path):
    write_text(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


def test_what_a_killed_process_left_is_taken_over(tmp_path):
    program = (
        "import os, sys, pathlib; from context_i2w.files import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as t:\n"
        "    t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")])
    assert os.listdir(tmp_path) == [".a.part"]
    write_text(tmp_path / "a", "whole")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "whole"


def test_two_writers_of_one_path_come_one_after_the_other(tmp_path):
    def write(letter: str) -> None:
        with atomic_path(tmp_path / "a") as temporary, open(temporary, "w") as file:
            for _ in range(20):
                file.write(letter)
                file.flush()
                time.sleep(0.002)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "a").read_text() in ("a" * 20, "b" * 20)
    assert os.listdir(tmp_path) == ["a"]


def test_a_writer_leaves_the_next_ones_file_alone(tmp_path, monkeypatch):
    """From the renaming on the temporary name may be another writer's."""
    real = files._sync_folder

    def another_begins(folder):
        (folder / ".a.part").touch()
        real(folder)

    monkeypatch.setattr(files, "_sync_folder", another_begins)
    write_text(tmp_path / "a", "one")
    assert (tmp_path / ".a.part").exists()


def test_a_lock_is_refused_or_waited_for(tmp_path):
    with (
        locked(tmp_path / "lock", "busy"),
        pytest.raises(UserError, match=r"^busy$"),
        locked(tmp_path / "lock", "busy"),
    ):
        pass
    with locked(tmp_path / "lock"):
        pass


@given(st.binary(min_size=1, max_size=300), st.integers(0), st.integers(1, 255))
def test_a_checksum_sees_any_changed_byte(data, place, flip):
    changed = bytearray(data)
    changed[place % len(data)] ^= flip
    assert checksum(data) != checksum(bytes(changed))


def test_a_checksum_does_not_depend_on_the_buffers_kind(monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", 16)
    data = bytes(range(100))
    assert checksum(data) == checksum(torch.tensor(list(data), dtype=torch.uint8).numpy())
    assert checksum(data) != checksum(data[16:] + data[:16])


@pytest.mark.parametrize(
    ("value", "shape", "fault"),
    [
        (3, int, None),
        (True, int, "it is True, a whole number is expected"),
        (3, float, None),
        (float("nan"), float, "it is nan, a finite number is expected"),
        (1 << 1100, float, f"it is {1 << 1100}"[:86] + "..., a finite number is expected"),
        ("3", int | str, None),
        (None, int | None, None),
        ("a\0", str, "it is 'a\\x00', text is expected"),
        ("\ud800", str, "it is '\\ud800', text is expected"),
        (["a", 1], [str], "[1] is 1, text is expected"),
        ({"a": {"b": "x"}}, {"a": {"b": int}}, "a.b is 'x', a whole number is expected"),
        ({}, {"a": int}, "it has no 'a'"),
        ({}, {"a?": int}, None),
        ({"x": 1, "y": "z"}, {str: int}, "y is 'z', a whole number is expected"),
        ({"f": "../x.jpg"}, {"f": FileName}, "f is '../x.jpg', a file name inside the folder is expected"),
        ({"f": "/x.jpg"}, {"f": FileName}, "f is '/x.jpg', a file name inside the folder is expected"),
        ({"f": "./dev/x..jpg"}, {"f": FileName}, None),
    ],
)
def test_shapes(value, shape, fault):
    assert misfit(value, shape) == fault


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner)))
def test_no_value_breaks_a_shape(value):
    for shape in (int, [str], {"a": [int]}, {str: FileName}, int | None):
        assert misfit(value, shape) is None or "is expected" in misfit(value, shape) or "has no" in misfit(value, shape)


@pytest.mark.parametrize("content", [b"", b"[" * 200_000, b"\xff", '{"a": 1}'.encode("utf-16"), b"1" * 5000, b"{"])
def test_json_that_cannot_be_read_is_one_line(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: not JSON") as caught:
        read_json(tmp_path / "a.json", {"a": int})
    assert len(str(caught.value)) < 400


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_json(tmp_path / "a.json", {"a": int}) == {"a": 1}


def test_an_error_is_one_line_with_its_remedy():
    line = one_line(UserError("x\n" * 3000 + "do this"))
    assert "\n" not in line
    assert len(line) < 1100
    assert line.endswith("do this")
    assert one_line(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a")) == "a: No space left on device"


def test_a_folder_takes_its_place_whole_or_not_at_all(tmp_path):
    place = tmp_path / "folder"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    killed, working = (tmp_path / f".folder.{number}.part" for number in (ended.pid, os.getppid()))
    killed.mkdir()
    working.mkdir()
    for content in ("first", "second"):
        with atomic_folder(place) as made:
            (made / "file").write_text(content)
        assert [path.read_text() for path in place.iterdir()] == [content]
    with pytest.raises(KeyboardInterrupt), atomic_folder(place) as made:
        raise KeyboardInterrupt
    with atomic_folder(place) as made:
        made.rmdir()  # gives up
    assert sorted(tmp_path.iterdir()) == [working, place]
    assert (place / "file").read_text() == "second"
