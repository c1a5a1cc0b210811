"""Reading processes: one that dies or is stuck ends the run in seconds, with its reason."""

import multiprocessing
import os
import signal
import time

import pytest
from torch.utils.data import Dataset

from context_i2w.data import reading
from context_i2w.data.reading import ReadingProcesses, read
from context_i2w.distributed import joined
from context_i2w.errors import UserError
from context_i2w.model.images import BrokenImage, content_of, open_image


class Rows(Dataset):
    def __init__(self, action):
        self.action = action

    def __len__(self):
        return 8

    def __getitem__(self, row):
        if row == 5:
            self.action()
        return row


def test_rows_come_in_order():
    assert list(read(Rows(lambda: None), 2, range(8))) == list(range(8))


def test_a_reader_that_is_killed_is_said_in_one_line():
    began = time.monotonic()
    with pytest.raises(UserError, match="a reading process died"):
        list(read(Rows(lambda: os.kill(os.getpid(), signal.SIGKILL)), 2, range(8)))
    assert time.monotonic() - began < 60


def test_a_reader_that_dies_while_its_images_are_encoded_is_said_in_one_line():
    def encode():
        with joined("cpu"):
            for _ in read(Rows(lambda: os.kill(os.getpid(), signal.SIGKILL)), 1, range(8)):
                time.sleep(2)

    with pytest.raises(UserError, match="a reading process died"):
        encode()


def test_signals_to_readers_change_nothing_while_they_are_wanted():
    assert list(read(Rows(lambda: os.kill(os.getpid(), signal.SIGTERM)), 2, range(8))) == list(range(8))


def test_a_stuck_reader_is_ended_with_its_iterator():
    batches = read(Rows(lambda: time.sleep(1000)), 1, range(8))
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    began = time.monotonic()
    batches.close()
    del batches
    assert time.monotonic() - began < 60


def test_the_next_pass_has_new_readers_where_one_was_left_with_a_stuck_one():
    reading = ReadingProcesses(Rows(lambda: time.sleep(1000)), 1, range(8))
    one = iter(reading)
    assert [next(one) for _ in range(3)] == [0, 1, 2]
    del one
    assert not multiprocessing.active_children()
    assert next(iter(reading)) == 0
    reading.close()


def test_closing_ends_the_processes_whoever_holds_a_pass():
    reading = ReadingProcesses(Rows(lambda: None), 2, range(8))
    held = iter(reading)
    next(held)
    assert len(multiprocessing.active_children()) == 2
    reading.close()
    assert not multiprocessing.active_children()
    assert list(reading) == list(range(8))
    assert len(multiprocessing.active_children()) == 2  # they stay
    reading.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_one_pass_at_a_time(workers):
    reading = ReadingProcesses(Rows(lambda: None), workers, range(8))
    one, other = iter(reading), iter(reading)
    assert next(one) == next(other) == 0
    with pytest.raises(AssertionError, match="another pass has begun"):
        next(one)
    with pytest.raises(AssertionError, match="the readers were closed"):
        list(other)  # it would lack what the first one took
    left, last = iter(reading), iter(reading)
    assert next(left) == next(last) == 0
    del left
    assert list(last) == list(range(1, 8))
    held = iter(reading)
    next(held)
    reading.close()
    with pytest.raises(AssertionError, match="the readers were closed"):
        list(held)


def test_a_fault_of_the_rows_keeps_its_own_words():
    reading = ReadingProcesses(Rows(lambda: {}["gone"]), 1, range(8))
    with pytest.raises(KeyError, match="gone"):
        list(reading)
    assert not multiprocessing.active_children()


def test_a_file_beyond_memory_is_a_broken_image(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        try:
            file.truncate(1 << 43)
        except OSError:
            pytest.skip("no file system for such files")
    assert content_of(tmp_path / "a.jpg") is None
    with pytest.raises(BrokenImage, match="not an image"):
        open_image(tmp_path / "a.jpg")


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(BrokenImage, match="not a file"):
        open_image(tmp_path / "a.jpg")


def test_a_signal_while_readers_start_is_no_death(monkeypatch):
    decide = reading._decide_on_signals

    def at_once(*arguments):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        decide(*arguments)

    monkeypatch.setattr(reading, "_decide_on_signals", at_once)
    assert list(read(Rows(lambda: None), 2, range(8))) == list(range(8))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}
