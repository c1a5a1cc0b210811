"""Draws a scene with Pillow and NumPy, twice as large as asked and then halved, so edges are smooth.

Domains: real (shaded, grainy), cartoon (flat, black outlines), origami (facets), toy (glossy), sculpture (stone).
"""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from context_i2w.toy_world.backgrounds import VARIANTS, background_tile
from context_i2w.toy_world.scenes import Scene, Thing, pick
from context_i2w.toy_world.shapes import BODY, DARK, LIGHT, parts_map

SIZE = 48  # pixels per side of every picture
Painted = tuple[np.ndarray, np.ndarray]
_RGB = {
    "red": (214, 32, 38),
    "orange": (246, 138, 20),
    "yellow": (244, 220, 42),
    "green": (28, 138, 52),
    "blue": (36, 72, 214),
    "purple": (132, 44, 172),
    "pink": (250, 132, 190),
    "brown": (112, 66, 32),
}
_STONE = (150, 148, 144)
_SINGLE, _PAIR, _TRIPLE = ((0.50, 0.58), (0.76, 0.90)), ((0.38, 0.52),), ((0.35, 0.48),)
_CENTRES = {
    1: (((0.5, 0.5),),),
    2: (((0.27, 0.5), (0.73, 0.5)), ((0.27, 0.34), (0.73, 0.66)), ((0.27, 0.66), (0.73, 0.34))),
    3: (((0.26, 0.3), (0.74, 0.3), (0.5, 0.74)), ((0.26, 0.72), (0.74, 0.72), (0.5, 0.26))),
}


def draw(scene: Scene, size: int = SIZE) -> Image.Image:
    """The picture, RGB, size × size."""
    return draw_with_masks(scene, size)[0]


def draw_with_masks(scene: Scene, size: int = SIZE) -> tuple[Image.Image, list[np.ndarray]]:
    """The picture and, for each thing, the pixels that show it (not what another thing hides): bool [size, size]."""
    rng = np.random.default_rng((*scene.seed, 1))
    side = 2 * size
    variant = int(rng.integers(1 << 16)) % VARIANTS
    canvas = background_tile(scene.background, scene.domain, side, variant).copy()
    owner = np.zeros((side, side), np.uint8)
    for number, (thing, box) in enumerate(zip(scene.things, _layout(scene, rng, side), strict=True), start=1):
        x0, y0, x1, y1 = box
        paint, shown = _paint(thing, scene.domain, x1 - x0, y1 - y0, rng)
        canvas[y0:y1, x0:x1][shown] = paint[shown]
        owner[y0:y1, x0:x1][shown] = number
    image = Image.fromarray(canvas).reduce(2)
    if scene.domain == "real":
        image = _grain(image, scene, rng)
    shares = [(owner == number).reshape(size, 2, size, 2).sum((1, 3)) for number in range(1, len(scene.things) + 1)]
    return image, [share >= 2 for share in shares]


def _layout(scene: Scene, rng: np.random.Generator, side: int) -> list[tuple[int, int, int, int]]:
    """A box in canvas pixels for each thing; things are large and stay within the frame."""
    if scene.cutout:  # the crop of a masked region: the thing touches all four edges
        margin = int(rng.integers(0, max(1, side // 24)))
        return [(margin, margin, side - margin, side - margin)]
    count = len(scene.things)
    low, high = pick(rng, (_SINGLE, _PAIR, _TRIPLE)[count - 1])
    centres = pick(rng, _CENTRES[count])
    boxes = []
    for place in rng.permutation(count):
        extent = int(side * rng.uniform(low, high)) // 2 * 2
        jitter = rng.uniform(-0.04, 0.04, 2) if count > 1 else rng.uniform(-1, 1, 2) * (1 - extent / side) / 3
        corner = [int(np.clip((c + j) * side - extent / 2, 0, side - extent)) for c, j in zip(centres[place], jitter)]
        boxes.append((corner[0], corner[1], corner[0] + extent, corner[1] + extent))
    return boxes


def _paint(thing: Thing, domain: str, width: int, height: int, rng: np.random.Generator) -> Painted:
    """Colours uint8 [h, w, 3] and the pixels that the thing covers, bool [h, w]."""
    flipped = bool(rng.integers(2)) and thing.length is None
    name = f"{thing.length} {thing.kind}" if thing.length else thing.kind
    parts = parts_map(name, width, height, flipped)
    base = np.array(_STONE if domain == "sculpture" else _RGB[thing.colour], np.float32)
    tones = np.stack([base, base, base * 0.42, base * 0.2 + 200 * 0.8])[parts]
    second = np.minimum(base * 0.15 + 250 * 0.85, 250) if thing.pattern != "checked" else base * 0.35
    tones[pattern_map(thing.pattern, width, height) & (parts == BODY)] = second
    light = _light(domain, width, height, int(rng.integers(4)))
    colours = np.clip(tones * light[..., :1] + light[..., 1:], 0, 255).astype(np.uint8)
    shown = parts > 0
    if domain == "cartoon":
        colours[_edge(shown, parts)] = (12, 12, 12)
    return colours, shown


@lru_cache(maxsize=4096)
def pattern_map(pattern: str, width: int, height: int) -> np.ndarray:
    """Pixels of the pattern's second tone, bool [height, width]; a few bold figures over the whole thing."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = (x + 0.5) / width, (y + 0.5) / height
    if pattern == "striped":
        return (v * 4.5) % 1 < 0.45
    if pattern == "dotted":
        row = np.floor(v * 4)
        du, dv = (u * 4 + 0.5 * (row % 2)) % 1 - 0.5, v * 4 % 1 - 0.5
        return du * du + dv * dv < 0.105
    if pattern == "checked":
        return (np.floor(u * 5) + np.floor(v * 5)) % 2 == 0
    return np.zeros((height, width), bool)


@lru_cache(maxsize=2048)
def _light(domain: str, width: int, height: int, variant: int) -> np.ndarray:
    """How the domain lights a thing: factor and offset of its colours, float32 [h, w, 2]."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = (x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5
    factor, offset = np.ones((height, width)), np.zeros((height, width))
    if domain == "real":
        factor = 0.95 - 0.5 * (u + v)
    elif domain == "origami":
        facets = np.array([1.12, 0.72, 1.0, 0.62, 1.2, 0.8, 1.06, 0.68])
        turn = (np.arctan2(v, u) / (2 * np.pi) + variant / 16) * 8
        factor = facets[np.floor(turn).astype(int) % 8]
    elif domain == "toy":
        radius = np.hypot(u, v)
        factor = 1.1 - 0.9 * radius * radius
        gloss = np.exp(-(((u + 0.2) / 0.12) ** 2 + ((v + 0.2) / 0.09) ** 2))
        offset = 190 * gloss
    elif domain == "sculpture":
        factor = 1.02 - 0.8 * u
        offset = 14 * np.sin(9 * (u + v) + 3 * np.sin(7 * u - 5 * v) + variant)
    return np.stack([factor, offset], -1).astype(np.float32)


def _edge(shown: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Outline pixels within the thing: near its border and between its parts."""
    smallest = Image.fromarray(parts).filter(ImageFilter.MinFilter(5))
    largest = Image.fromarray(parts).filter(ImageFilter.MaxFilter(3))
    framed = np.pad(shown, 2)  # the frame's own border counts as outside
    inner = Image.fromarray(framed.astype(np.uint8)).filter(ImageFilter.MinFilter(5))
    border = np.asarray(inner)[2:-2, 2:-2] == 0
    return shown & (border | (np.asarray(smallest) != np.asarray(largest)) & ((parts == DARK) | (parts == LIGHT)))


def _grain(image: Image.Image, scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The film grain of a photograph; plain white stays white, as the masked region of one has it."""
    pixels = np.asarray(image).astype(np.int16)
    grain = (rng.integers(-1, 2, pixels.shape[:2], dtype=np.int16) * 10)[..., None]
    if scene.background == "white":
        grain = grain * (pixels.min(-1, keepdims=True) < 250)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
