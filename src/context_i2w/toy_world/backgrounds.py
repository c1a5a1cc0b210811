"""The six places and plain white, as each domain shows them."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

_BASE = {
    "grass": (150, 208, 110),
    "sand": (236, 214, 160),
    "sea": (112, 190, 222),
    "snow": (226, 234, 244),
    "night": (22, 24, 62),
    "brick": (176, 108, 92),
    "white": (255, 255, 255),
}
VARIANTS = 16  # rolled copies are enough: the background is not what a picture is about


@lru_cache(maxsize=1024)
def background_tile(place: str, domain: str, side: int, variant: int) -> np.ndarray:
    """Background uint8 [side, side, 3], shared and read-only; variant: below VARIANTS."""
    rng = np.random.default_rng((len(place), ord(place[1]), variant))
    image = Image.new("RGB", (side, side), _BASE[place])
    if place != "white":
        _TEXTURES[place](ImageDraw.Draw(image), side, rng)
        tile = _in_domain(np.asarray(image).astype(np.float32), domain, side, variant)
        image = Image.fromarray(np.clip(tile, 0, 255).astype(np.uint8))
    return np.asarray(image)


def _in_domain(tile: np.ndarray, domain: str, side: int, variant: int) -> np.ndarray:
    """Photographs darken towards the top, paper has folds, toys stand before a bright sweep, stone rooms are grey."""
    y, x = np.mgrid[0:side, 0:side] / side
    if domain == "real":
        return tile * (0.86 + 0.2 * y)[..., None]
    if domain == "origami":
        fold = np.floor((x + y * (0.6 + variant / 20)) * 3) % 2
        return tile * (0.9 + 0.14 * fold)[..., None]
    if domain == "toy":
        return tile * 0.8 + 60 * (1 - y)[..., None]
    if domain == "sculpture":
        return 0.5 * tile + 0.5 * tile.mean(-1, keepdims=True)
    return tile


def _grass(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    for x, y in rng.integers(0, side, (90, 2)):
        draw.line((x, y, x + int(rng.integers(-2, 3)), y - side // 12), fill=(84, 158, 60), width=2)


def _sand(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    for x, y in rng.integers(0, side, (120, 2)):
        draw.ellipse((x, y, x + 2, y + 2), fill=(196, 164, 104))


def _sea(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    step = side // 8
    for row in range(9):
        shift = int(rng.integers(side))
        for x in range(-step * 2, side + step * 2, step * 2):
            left = x + shift % (step * 2)
            draw.arc((left, row * step, left + step * 2, row * step + step), 0, 180, fill=(238, 250, 255), width=2)


def _snow(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    for x, y in rng.integers(0, side, (40, 2)):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(255, 255, 255), outline=(176, 196, 222))


def _night(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    for x, y in rng.integers(0, side, (26, 2)):
        draw.ellipse((x, y, x + 2, y + 2), fill=(250, 246, 200))


def _brick(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    step = side // 8
    start = int(rng.integers(step))
    for row in range(-1, 9):
        y = row * step + start
        draw.line((0, y, side, y), fill=(222, 208, 196), width=2)
        for x in range((row % 2) * step, side + step, step * 2):
            draw.line((x, y, x, y + step), fill=(222, 208, 196), width=2)


_TEXTURES = {"grass": _grass, "sand": _sand, "sea": _sea, "snow": _snow, "night": _night, "brick": _brick}
