"""Heat maps as pictures for a page."""

import base64

import matplotlib
import numpy as np
from PIL import Image
from torch import Tensor

from context_i2w.search.thumbnails import jpeg

OVERLAY = 168  # pixels
OPACITY = 0.6


def data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def overlay(image: Image.Image, values: Tensor) -> bytes:
    """A square image under a heat map [P] of values in 0 … 1: dark is none, yellow is most."""
    return _blend(image, _square(values), matplotlib.colormaps["inferno"])


def change_overlay(image: Image.Image, values: Tensor) -> bytes:
    """The same for signed values in -1 … 1: blue is less, red is more."""
    return _blend(image, (_square(values) + 1) / 2, matplotlib.colormaps["coolwarm"])


def _square(values: Tensor) -> np.ndarray:
    side = round(len(values) ** 0.5)
    return values.float().cpu().numpy().reshape(side, side)


def _blend(image: Image.Image, grid: np.ndarray, colours: matplotlib.colors.Colormap) -> bytes:
    large = Image.fromarray(grid.astype(np.float32)).resize((OVERLAY, OVERLAY), Image.Resampling.BILINEAR)
    heat = Image.fromarray((255 * colours(np.asarray(large).clip(0, 1))[..., :3]).astype(np.uint8))
    # The picture in grey, so that every colour is the map's.
    below = image.convert("L").convert("RGB").resize((OVERLAY, OVERLAY), Image.Resampling.BICUBIC)
    return jpeg(Image.blend(below, heat, OPACITY))
