"""Outlines of the fourteen kinds, in the unit square (x to the right, y down).

A shape is a list of (part, form, corners), painted in order. Parts: BODY takes the thing's colour and pattern, DARK a
deeper tone of the colour, LIGHT a pale tone, CLEAR cuts away. A `box` and an `oval` have two corners.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageOps

CLEAR, BODY, DARK, LIGHT = 0, 1, 2, 3


def _star() -> list[tuple[float, float]]:
    radii = (0.54, 0.24)
    turns = [math.pi * step / 5 for step in range(10)]
    return [(0.5 + radii[i % 2] * math.sin(t), 0.54 - radii[i % 2] * math.cos(t)) for i, t in enumerate(turns)]


def _shirt(cuff_y: float, cuff_out: float, cuff_in: float) -> list[tuple[float, float]]:
    left = [(0.36, 0.0), (0.24, 0.04), (cuff_out, cuff_y - 0.04), (cuff_in, cuff_y + 0.06), (0.27, 0.36), (0.27, 1)]
    return left + [(1 - x, y) for x, y in reversed(left)]


def _dress(hem: float) -> list[tuple[float, float]]:
    left = [(0.38, 0.0), (0.30, 0.0), (0.33, 0.2), (0.39, 0.36), (0.02, hem)]
    return [*left, *((1 - x, y) for x, y in reversed(left)), (0.5, 0.16)]


def _top(hem: float) -> list[tuple[float, float]]:
    left = [(0.30, 0.0), (0.17, 0.0), (0.19, 0.2), (0.06, 0.36), (0.1, hem)]
    return [*left, *((1 - x, y) for x, y in reversed(left)), (0.66, 0.24), (0.34, 0.24)]


SHAPES: dict[str, list[tuple[int, str, Sequence[tuple[float, float]]]]] = {
    "house": [
        (BODY, "box", ((0.1, 0.42), (0.9, 1))),
        (DARK, "poly", [(0, 0.46), (0.5, 0), (1, 0.46)]),
        (DARK, "box", ((0.56, 0.64), (0.76, 1))),
        (LIGHT, "box", ((0.22, 0.58), (0.42, 0.78))),
    ],
    "tree": [
        (DARK, "box", ((0.41, 0.78), (0.59, 1))),
        (BODY, "poly", [(0.5, 0), (0.82, 0.36), (0.18, 0.36)]),
        (BODY, "poly", [(0.5, 0.16), (0.92, 0.6), (0.08, 0.6)]),
        (BODY, "poly", [(0.5, 0.36), (1, 0.84), (0, 0.84)]),
    ],
    "car": [
        (
            BODY,
            "poly",
            [(0, 0.46), (0.2, 0.44), (0.34, 0.12), (0.74, 0.12), (0.88, 0.44), (1, 0.5), (1, 0.78), (0, 0.78)],
        ),
        (LIGHT, "poly", [(0.3, 0.42), (0.39, 0.2), (0.7, 0.2), (0.79, 0.42)]),
        (DARK, "oval", ((0.1, 0.6), (0.4, 0.94))),
        (DARK, "oval", ((0.6, 0.6), (0.9, 0.94))),
    ],
    "boat": [
        (DARK, "box", ((0.47, 0), (0.53, 0.7))),
        (LIGHT, "poly", [(0.44, 0.05), (0.44, 0.6), (0.06, 0.6)]),
        (LIGHT, "poly", [(0.56, 0.14), (0.56, 0.6), (0.9, 0.6)]),
        (BODY, "poly", [(0, 0.64), (1, 0.64), (0.8, 1), (0.2, 1)]),
    ],
    "fish": [
        (BODY, "poly", [(0.62, 0.5), (1, 0.14), (1, 0.86)]),
        (BODY, "oval", ((0, 0.18), (0.78, 0.82))),
        (DARK, "poly", [(0.3, 0.22), (0.52, 0.04), (0.56, 0.26)]),
        (LIGHT, "oval", ((0.1, 0.34), (0.26, 0.5))),
        (DARK, "oval", ((0.14, 0.38), (0.22, 0.46))),
    ],
    "star": [(BODY, "poly", _star())],
    "heart": [
        (BODY, "oval", ((0, 0.04), (0.53, 0.58))),
        (BODY, "oval", ((0.47, 0.04), (1, 0.58))),
        (BODY, "poly", [(0.03, 0.42), (0.5, 0.3), (0.97, 0.42), (0.5, 1)]),
    ],
    "moon": [(BODY, "oval", ((0, 0), (1, 1))), (CLEAR, "oval", ((0.36, -0.06), (1.2, 0.78)))],
    "cup": [
        (DARK, "oval", ((0.56, 0.26), (1, 0.76))),
        (CLEAR, "oval", ((0.68, 0.38), (0.88, 0.64))),
        (BODY, "poly", [(0, 0.1), (0.78, 0.1), (0.66, 1), (0.12, 1)]),
        (LIGHT, "oval", ((0, 0), (0.78, 0.2))),
    ],
    "mushroom": [
        (LIGHT, "poly", [(0.38, 0.5), (0.62, 0.5), (0.7, 1), (0.3, 1)]),
        (BODY, "oval", ((0, 0), (1, 1.16))),
        (CLEAR, "box", ((0, 0.58), (0.36, 1))),
        (CLEAR, "box", ((0.64, 0.58), (1, 1))),
        (LIGHT, "poly", [(0.36, 0.58), (0.64, 0.58), (0.7, 1), (0.3, 1)]),
    ],
    "umbrella": [
        (BODY, "oval", ((0, 0), (1, 1))),
        (CLEAR, "box", ((0, 0.5), (1, 1))),
        (CLEAR, "oval", ((0.0, 0.42), (0.34, 0.62))),
        (CLEAR, "oval", ((0.33, 0.42), (0.67, 0.62))),
        (CLEAR, "oval", ((0.66, 0.42), (1, 0.62))),
        (DARK, "box", ((0.47, 0.3), (0.54, 0.94))),
        (DARK, "box", ((0.3, 0.9), (0.54, 1))),
        (DARK, "box", ((0.3, 0.8), (0.37, 1))),
    ],
    "short dress": [(BODY, "poly", _dress(0.72)), (DARK, "box", ((0.37, 0.32), (0.63, 0.39)))],
    "long dress": [(BODY, "poly", _dress(1.0)), (DARK, "box", ((0.37, 0.32), (0.63, 0.39)))],
    "short shirt": [(BODY, "poly", _shirt(0.36, 0.0, 0.12)), (LIGHT, "poly", [(0.34, 0), (0.66, 0), (0.5, 0.2)])],
    "long shirt": [(BODY, "poly", _shirt(0.9, 0.0, 0.14)), (LIGHT, "poly", [(0.34, 0), (0.66, 0), (0.5, 0.2)])],
    "short top": [(BODY, "poly", _top(0.66))],
    "long top": [(BODY, "poly", _top(1.0))],
}


@lru_cache(maxsize=8192)
def parts_map(shape: str, width: int, height: int, flipped: bool) -> np.ndarray:
    """uint8 [height, width] of CLEAR, BODY, DARK, LIGHT for a name of SHAPES; read-only, as it is shared."""
    image = Image.new("L", (width, height), CLEAR)
    draw = ImageDraw.Draw(image)
    forms = {"poly": draw.polygon, "box": draw.rectangle, "oval": draw.ellipse}
    for part, form, points in SHAPES[shape]:
        forms[form]([(x * (width - 1), y * (height - 1)) for x, y in points], fill=part)
    return np.asarray(ImageOps.mirror(image) if flipped else image)
