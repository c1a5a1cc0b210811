"""Parts of images as torchvision's RandomResizedCrop takes them, to the number, drawn for many images at once.

Between the decoding of two images these calls would take far longer: the processor has forgotten them by then.
"""

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

RATIO = (3 / 4, 4 / 3)  # width to height of crops
TRIES = 10  # at a crop that fits
FLOAT = np.uint32((1 << 24) - 1)  # the bits of a word that torch makes a number below 1 of


class Chances(NamedTuple):
    """An image's random numbers: of each try the share of its area and the aspect ratio, and words that tell where."""

    shares: list[float]
    aspects: list[float]
    words: list[int]


class _Twister(threading.local):
    """The numbers that torch's generator on the CPU makes of a seed, without torch's time for each call."""

    def __init__(self):
        self.bits = np.random.MT19937(0)
        self.state = np.random.RandomState(self.bits)

    def words(self, seed: int) -> np.ndarray:
        self.state.seed(seed & 0xFFFFFFFF)
        return self.bits.random_raw(2 * TRIES + 2)


_TWISTER = _Twister()


def chances(seeds: Sequence[int], scale: tuple[float, float]) -> list[Chances]:
    """What torch.manual_seed(seed) would give for each image. scale: the least and the largest share of its area."""
    words = np.array([_TWISTER.words(seed) for seed in seeds], np.uint32).reshape(-1, 2 * TRIES + 2)
    ends = torch.stack([torch.tensor(scale), torch.tensor(RATIO).log()]).double().numpy()
    shares = (words[:, :-2] & FLOAT).reshape(-1, TRIES, 2) / float(FLOAT + 1)
    tries = torch.from_numpy(shares * (ends[:, 1] - ends[:, 0]) + ends[:, 0]).float()
    return list(map(Chances, tries[..., 0].tolist(), tries[..., 1].exp().tolist(), words.tolist()))


def crop_box(height: int, width: int, own: Chances) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part: its share of the area, sides from 3 : 4 to 4 : 3."""
    for number, (share, aspect) in enumerate(zip(own.shares, own.aspects)):
        area = height * width * share
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = own.words[2 * number + 2 : 2 * number + 4]
            return top % (height - h + 1), left % (width - w + 1), h, w
    w, h = width, height  # the largest part in the middle whose sides fit
    if width / height < RATIO[0]:
        h = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(height * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w
