"""Heat maps as pictures for a page."""

import base64

import numpy as np
from PIL import Image
from torch import Tensor

from context_i2w.search.thumbnails import jpeg

OVERLAY = 168  # pixels
OPACITY = 0.6
# 17 colours of matplotlib's "inferno" and "coolwarm", evenly spaced; those between are interpolated.
AMOUNT = (
    "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 "
    "fcffa4"
)
CHANGE = (
    "3b4cc0 4e68d8 6282ea 779af7 8db0fe a3c2fe b9d0f9 ccd9ed dddcdc ecd3c5 f5c4ac f7b093 f4987a eb7d62 dd5f4b ca3b37 "
    "b40426"
)


def data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def overlay(image: Image.Image, values: Tensor, colours: str = AMOUNT) -> bytes:
    """A square image under a heat map [P] of values in 0 … 1: dark is none, yellow is most; CHANGE: blue to red."""
    side = round(len(values) ** 0.5)
    grid = Image.fromarray(values.float().cpu().numpy().reshape(side, side))
    large = grid.resize((OVERLAY, OVERLAY), Image.Resampling.BILINEAR)
    anchors = np.array([list(bytes.fromhex(colour)) for colour in colours.split()])  # [17, 3]
    place = np.asarray(large).clip(0, 1) * (len(anchors) - 1)
    channels = [np.interp(place, range(len(anchors)), anchors[:, channel]) for channel in range(3)]
    heat = Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))
    # The picture in grey, so that every colour is the map's.
    below = image.convert("L").convert("RGB").resize((OVERLAY, OVERLAY), Image.Resampling.BICUBIC)
    return jpeg(Image.blend(below, heat, OPACITY))
