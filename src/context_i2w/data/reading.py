"""Reading ahead by other processes or threads: whole batches of whatever kind, and images for the vision tower."""

import collections
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from context_i2w.errors import UserError
from context_i2w.model.images import BrokenImage

T = TypeVar("T")
SIGNALS = {signal.SIGTERM, signal.SIGINT} | ({signal.SIGUSR1} if sys.platform != "win32" else set())


class Images(NamedTuple):
    """Images for one vision pass: those that can be read, by number, and why the others can't."""

    numbers: list[int]  # n of them
    pixels: Tensor  # [n, 3, S, S], as FrozenCLIP.encode_image takes them
    broken: dict[int, BrokenImage]


def read_images(prepare: Callable[[int], Tensor], batches: Iterable[Sequence[int]], workers: int) -> Iterator[Images]:
    """The images of each batch of numbers, in order: all that CLIP sees outside training comes this way.

    prepare: from a number to [3, S, S], bytes; raises BrokenImage. It is sent to the reading processes.
    """
    return read(_Prepared(prepare), workers, sampler=batches)


class _Prepared(Dataset):
    def __init__(self, prepare: Callable[[int], Tensor]):
        self.prepare = prepare

    def __getitem__(self, numbers: Sequence[int]) -> Images:
        pixels, broken = {}, {}
        for number in numbers:
            try:
                pixels[number] = self.prepare(number)
            except BrokenImage as error:
                broken[number] = error
        return Images(list(pixels), torch.stack([*pixels.values()]) if pixels else torch.empty(0), broken)


def batched(items: Iterable[T], size: int) -> list[list[T]]:
    """`size` items a batch, fewer in the last."""
    items = list(items)
    return [items[start : start + size] for start in range(0, len(items), size)]


def read(rows: Dataset, workers: int, **options) -> Iterator[Any]:
    """The items of `rows`, which are whole batches; read ahead by so many processes.

    Processes are forked where that works: in a process that was spawned itself they would be spawned too by default,
    and import torch first, for seconds. Ctrl-C and the scheduler's signals reach them too, but they go on until this
    iterator is closed: it is for the training process to decide. Raises UserError if one of them dies.
    """
    forked = "fork" if workers and sys.platform == "linux" else None
    ending = multiprocessing.get_context(forked).Event() if workers else None
    loader = DataLoader(
        rows,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=forked,
        worker_init_fn=functools.partial(_decide_on_signals, ending) if ending else None,
        **options,
    )
    try:
        yield from _begun(loader, workers)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        died = f"a reading process died ({str(error).splitlines()[0].strip()})"
        raise UserError(f"{died}; if nobody ended it, memory ran out: lower --workers") from None
    finally:
        if ending:
            ending.set()


def read_by_threads(rows: Dataset, workers: int, sampler: Iterable, pin_memory: bool = False) -> Iterator[Any]:
    """As `read`, for items that are copied from memory rather than computed: threads need not send them.

    So many items are on their way at a time; each is a (named) tuple of tensors, pinned by the thread that read it.
    """

    def item(key: Any) -> Any:
        return pinned(rows[key]) if pin_memory else rows[key]

    if not workers:
        yield from map(item, sampler)
        return
    with ThreadPoolExecutor(workers) as threads:
        coming: collections.deque[Future] = collections.deque()
        try:
            for key in sampler:
                coming.append(threads.submit(item, key))
                if len(coming) > workers:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def pinned(item: Any) -> Any:
    """An item's tensors copied to memory that a GPU reads by itself, by NumPy.

    torch would start threads of its own in each reading thread.
    """
    if isinstance(item, tuple):
        parts = map(pinned, item)
        return type(item)(*parts) if hasattr(item, "_fields") else tuple(parts)
    if not isinstance(item, Tensor):
        return item
    copy = torch.empty_like(item, pin_memory=True)
    np.copyto(copy.numpy(), item.numpy())
    return copy


def _begun(loader: DataLoader, workers: int) -> Iterator[Any]:
    """Its iterator; signals wait until the processes that it starts have decided on them, else they die of one."""
    if not workers or sys.platform == "win32":
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _decide_on_signals(ending: Any, worker: int) -> None:
    """A reader goes on at signals, unless its work is over: it might wait for a file that never comes."""

    def on_signal(number: int, _: Any) -> None:
        if ending.is_set():
            os._exit(0)

    signal.signal(signal.SIGTERM, on_signal)
    for number in SIGNALS - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
