"""People's own pictures made ready for CLIP: as people see them.

Benchmarks keep the published order of operations (model/images.py). Here EXIF orientation is applied, transparency
lies on white and RGB comes before resizing; for an upright RGB image the two give the same tensor. Only a JPEG of at
least four times CLIP's size is decoded at half, a quarter or an eighth of its own: several times as fast.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image, ImageOps

from context_i2w.model.fast_images import PREPARATIONS
from context_i2w.model.images import BrokenImage, ImageSource, as_bytes, load, open_header, open_image

try:
    import pillow_heif

    pillow_heif.register_heif_opener()
    HEIF = True
except ImportError:
    HEIF = False

Picture = str | os.PathLike | Image.Image
SMALL = 256  # pixels of the shorter side that a thumbnail is made of
ENOUGH = 2  # times CLIP's size: a JPEG decoded at this much or more gives nearly the tensor of the whole one


def upright(image: Image.Image) -> Image.Image:
    """RGB, turned as EXIF says, transparent parts white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def open_scaled(path: str | os.PathLike, at_least: int, otherwise: Callable = open_image) -> Image.Image | torch.Tensor:
    """A JPEG at 1/2, 1/4 or 1/8 of its size, its shorter side keeping `at_least` pixels; what is no larger, and other
    formats, as `otherwise` opens them. Raises BrokenImage."""
    with open_header(path) as image:
        if image.format in ("JPEG", "MPO") and min(image.size) >= 2 * at_least:
            image.draft("RGB", (at_least, at_least))
            return load(image, path)
    return otherwise(path)


def read_picture(picture: Picture, opened: Callable = open_image) -> Image.Image | torch.Tensor:
    """The upright RGB image of a file, or of one that is open already; opened: from a path to an image, or to bytes
    [3, H, W] that are upright and RGB. Raises BrokenImage."""
    image = picture if isinstance(picture, Image.Image) else opened(picture)
    try:
        return upright(image) if isinstance(image, Image.Image) else image
    except Exception as error:  # a damaged file can raise nearly anything
        name = getattr(image, "filename", "") if isinstance(picture, Image.Image) else os.fspath(picture)
        raise BrokenImage(name or "image", f"can't be decoded ({error})") from None


class PicturePreparation:
    """Picture -> float tensor [3, S, S], normalised for CLIP; `pixels`: before that, as bytes. Raise BrokenImage."""

    def __init__(self, image_size: int, *transform: Any):
        """image_size, transform: of FrozenCLIP.transform."""
        self.preparation = PREPARATIONS["fast"](image_size, *transform)
        self._open = partial(open_scaled, at_least=max(ENOUGH * image_size, SMALL), otherwise=self.preparation.open)

    def __call__(self, picture: Picture) -> torch.Tensor:
        return self.preparation.normalised(self.pixels(picture))

    def pixels(self, picture: Picture) -> torch.Tensor:
        return as_bytes(self.crop(self.read(picture)))

    def read(self, picture: Picture) -> Image.Image | torch.Tensor:
        """The upright picture, as large as CLIP and a thumbnail need it."""
        return read_picture(picture, self._open)

    def crop(self, image: Image.Image | torch.Tensor) -> Image.Image | torch.Tensor:
        """The S x S part of an upright image that CLIP sees."""
        return self.preparation.square(image, ImageSource(getattr(image, "filename", "") or "image"))
