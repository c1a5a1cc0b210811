"""Outlines of the fourteen kinds, in the unit square (x to the right, y down).

A shape is a list of (part, form, coordinates), painted in order. Parts: `body` takes the thing's colour and
pattern, `dark` a deeper tone of the colour, `light` a pale tone, `clear` cuts away. Forms: `box` and `oval` take
(x0, y0, x1, y1), `poly` a list of points.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CLEAR, BODY, DARK, LIGHT = 0, 1, 2, 3
_PARTS = {"clear": CLEAR, "body": BODY, "dark": DARK, "light": LIGHT}


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


SHAPES: dict[str, list[tuple[str, str, Any]]] = {
    "house": [
        ("body", "box", (0.1, 0.42, 0.9, 1)),
        ("dark", "poly", [(0, 0.46), (0.5, 0), (1, 0.46)]),
        ("dark", "box", (0.56, 0.64, 0.76, 1)),
        ("light", "box", (0.22, 0.58, 0.42, 0.78)),
    ],
    "tree": [
        ("dark", "box", (0.41, 0.78, 0.59, 1)),
        ("body", "poly", [(0.5, 0), (0.82, 0.36), (0.18, 0.36)]),
        ("body", "poly", [(0.5, 0.16), (0.92, 0.6), (0.08, 0.6)]),
        ("body", "poly", [(0.5, 0.36), (1, 0.84), (0, 0.84)]),
    ],
    "car": [
        (
            "body",
            "poly",
            [(0, 0.46), (0.2, 0.44), (0.34, 0.12), (0.74, 0.12), (0.88, 0.44), (1, 0.5), (1, 0.78), (0, 0.78)],
        ),
        ("light", "poly", [(0.3, 0.42), (0.39, 0.2), (0.7, 0.2), (0.79, 0.42)]),
        ("dark", "oval", (0.1, 0.6, 0.4, 0.94)),
        ("dark", "oval", (0.6, 0.6, 0.9, 0.94)),
    ],
    "boat": [
        ("dark", "box", (0.47, 0, 0.53, 0.7)),
        ("light", "poly", [(0.44, 0.05), (0.44, 0.6), (0.06, 0.6)]),
        ("light", "poly", [(0.56, 0.14), (0.56, 0.6), (0.9, 0.6)]),
        ("body", "poly", [(0, 0.64), (1, 0.64), (0.8, 1), (0.2, 1)]),
    ],
    "fish": [
        ("body", "poly", [(0.62, 0.5), (1, 0.14), (1, 0.86)]),
        ("body", "oval", (0, 0.18, 0.78, 0.82)),
        ("dark", "poly", [(0.3, 0.22), (0.52, 0.04), (0.56, 0.26)]),
        ("light", "oval", (0.1, 0.34, 0.26, 0.5)),
        ("dark", "oval", (0.14, 0.38, 0.22, 0.46)),
    ],
    "star": [("body", "poly", _star())],
    "heart": [
        ("body", "oval", (0, 0.04, 0.53, 0.58)),
        ("body", "oval", (0.47, 0.04, 1, 0.58)),
        ("body", "poly", [(0.03, 0.42), (0.5, 0.3), (0.97, 0.42), (0.5, 1)]),
    ],
    "moon": [("body", "oval", (0, 0, 1, 1)), ("clear", "oval", (0.36, -0.06, 1.2, 0.78))],
    "cup": [
        ("dark", "oval", (0.56, 0.26, 1, 0.76)),
        ("clear", "oval", (0.68, 0.38, 0.88, 0.64)),
        ("body", "poly", [(0, 0.1), (0.78, 0.1), (0.66, 1), (0.12, 1)]),
        ("light", "oval", (0, 0, 0.78, 0.2)),
    ],
    "mushroom": [
        ("light", "poly", [(0.38, 0.5), (0.62, 0.5), (0.7, 1), (0.3, 1)]),
        ("body", "oval", (0, 0, 1, 1.16)),
        ("clear", "box", (0, 0.58, 0.36, 1)),
        ("clear", "box", (0.64, 0.58, 1, 1)),
        ("light", "poly", [(0.36, 0.58), (0.64, 0.58), (0.7, 1), (0.3, 1)]),
    ],
    "umbrella": [
        ("body", "oval", (0, 0, 1, 1)),
        ("clear", "box", (0, 0.5, 1, 1)),
        ("clear", "oval", (0.0, 0.42, 0.34, 0.62)),
        ("clear", "oval", (0.33, 0.42, 0.67, 0.62)),
        ("clear", "oval", (0.66, 0.42, 1, 0.62)),
        ("dark", "box", (0.47, 0.3, 0.54, 0.94)),
        ("dark", "box", (0.3, 0.9, 0.54, 1)),
        ("dark", "box", (0.3, 0.8, 0.37, 1)),
    ],
    "short dress": [("body", "poly", _dress(0.72)), ("dark", "box", (0.37, 0.32, 0.63, 0.39))],
    "long dress": [("body", "poly", _dress(1.0)), ("dark", "box", (0.37, 0.32, 0.63, 0.39))],
    "short shirt": [("body", "poly", _shirt(0.36, 0.0, 0.12)), ("light", "poly", [(0.34, 0), (0.66, 0), (0.5, 0.2)])],
    "long shirt": [("body", "poly", _shirt(0.9, 0.0, 0.14)), ("light", "poly", [(0.34, 0), (0.66, 0), (0.5, 0.2)])],
    "short top": [("body", "poly", _top(0.66))],
    "long top": [("body", "poly", _top(1.0))],
}


@lru_cache(maxsize=8192)
def parts_map(shape: str, width: int, height: int, flipped: bool) -> np.ndarray:
    """uint8 [height, width] of CLEAR, BODY, DARK, LIGHT for a name of SHAPES; read-only, as it is shared."""
    image = Image.new("L", (width, height), CLEAR)
    draw = ImageDraw.Draw(image)
    for part, form, numbers in SHAPES[shape]:
        fill = _PARTS[part]
        if form == "poly":
            draw.polygon([(x * (width - 1), y * (height - 1)) for x, y in numbers], fill=fill)
            continue
        x0, y0, x1, y1 = numbers
        corners = (x0 * (width - 1), y0 * (height - 1), x1 * (width - 1), y1 * (height - 1))
        (draw.rectangle if form == "box" else draw.ellipse)(corners, fill=fill)
    parts = np.asarray(image)
    parts = np.ascontiguousarray(parts[:, ::-1]) if flipped else parts.copy()
    parts.setflags(write=False)
    return parts
