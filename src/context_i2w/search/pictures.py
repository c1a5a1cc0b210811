"""People's own pictures made ready for CLIP: as people see them.

Benchmarks keep the published order of operations (model/images.py). Here EXIF orientation is applied, transparency
lies on white and RGB comes before resizing; for an upright RGB image the two give the same tensor. Only a JPEG of at
least four times CLIP's size is decoded at half, a quarter or an eighth of its own: several times as fast.
"""

import os

import torch
from PIL import Image, ImageOps

from context_i2w.model.images import BrokenImage, ImageSource, Preparation, open_image

try:
    import pillow_heif

    pillow_heif.register_heif_opener()
    HEIF = True
except ImportError:
    HEIF = False

Picture = str | os.PathLike | Image.Image
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


def read_picture(picture: Picture, at_least: int | None = None) -> Image.Image:
    """The upright RGB image of a file, or of an image that is open already. Raises BrokenImage.

    at_least: pixels of the shorter side that are enough, for a JPEG file decoded at a smaller scale; None: all of them.
    """
    image = picture if isinstance(picture, Image.Image) else open_image(picture, at_least=at_least)
    try:
        return upright(image)
    except Exception as error:  # a damaged file can raise nearly anything
        name = getattr(image, "filename", "") if isinstance(picture, Image.Image) else os.fspath(picture)
        raise BrokenImage(name or "image", f"can't be decoded ({error})") from None


class PicturePreparation(Preparation):
    """Picture -> float tensor [3, S, S], normalised for CLIP. Raises BrokenImage."""

    def __call__(self, picture: Picture) -> torch.Tensor:
        return self.normalised(self.crop(self.read(picture)))

    def read(self, picture: Picture, at_least: int = 0) -> Image.Image:
        """The upright image, its shorter side large enough for CLIP and for `at_least` pixels."""
        return read_picture(picture, max(ENOUGH * self.image_size, at_least))

    def crop(self, image: Image.Image) -> Image.Image:
        """The S x S part of an upright image that CLIP sees."""
        return self.square(image, ImageSource(getattr(image, "filename", "") or "image"))
