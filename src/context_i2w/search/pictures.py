"""People's own pictures made ready for CLIP: as people see them.

Benchmarks keep the published order of operations (images.py). Here EXIF orientation is applied, transparency
lies on white and RGB comes before resizing; for an upright RGB image the two give the same tensor.
"""

import os

import torch
from PIL import Image, ImageOps

from context_i2w.model.images import BrokenImage, ImageSource, Preparation, open_image

Picture = str | os.PathLike | Image.Image


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


def read_picture(picture: Picture) -> Image.Image:
    """The upright RGB image of a file, or of an image that is open already. Raises BrokenImage."""
    image = picture if isinstance(picture, Image.Image) else open_image(picture)
    try:
        return upright(image)
    except Exception as error:  # a damaged file can raise nearly anything
        name = getattr(image, "filename", "") if isinstance(picture, Image.Image) else os.fspath(picture)
        raise BrokenImage(name or "image", f"can't be decoded ({error})") from None


class PicturePreparation(Preparation):
    """Picture -> float tensor [3, S, S], normalised for CLIP. Raises BrokenImage."""

    def __call__(self, picture: Picture) -> torch.Tensor:
        return self.normalised(self.crop(read_picture(picture)))

    def crop(self, image: Image.Image) -> Image.Image:
        """The S x S part of an upright image that CLIP sees."""
        return self.square(image, ImageSource(getattr(image, "filename", "") or "image"))
