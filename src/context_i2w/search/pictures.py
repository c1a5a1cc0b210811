"""People's own pictures made ready for CLIP: as people see them.

Benchmarks keep the published order of operations (images.py). Here EXIF orientation is applied, transparency
lies on white and RGB comes before resizing; for an upright RGB image the two give the same tensor.
"""

import os
from collections.abc import Callable

import torch
from PIL import Image, ImageOps

from context_i2w.model.fast_images import PREPARATIONS
from context_i2w.model.images import BrokenImage, ImageSource, as_bytes, open_image

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


def read_picture(picture: Picture, opened: Callable = open_image) -> Image.Image | torch.Tensor:
    """The upright RGB image of a file, or of an image that is open already. Raises BrokenImage.

    opened: from a path to an image, or to bytes [3, H, W] that are upright and RGB.
    """
    image = picture if isinstance(picture, Image.Image) else opened(picture)
    try:
        return upright(image) if isinstance(image, Image.Image) else image
    except Exception as error:  # a damaged file can raise nearly anything
        name = getattr(image, "filename", "") if isinstance(picture, Image.Image) else os.fspath(picture)
        raise BrokenImage(name or "image", f"can't be decoded ({error})") from None


class PicturePreparation:
    """Picture -> float tensor [3, S, S], normalised for CLIP; `pixels`: before that, as bytes. Raise BrokenImage.

    reader: "fast" reads JPEGs by torchvision, "exact" by Pillow (model/fast_images.py).
    """

    def __init__(self, image_size: int, mean: tuple[float, ...], std: tuple[float, ...], reader: str = "fast"):
        self.preparation = PREPARATIONS[reader](image_size, mean, std)

    def __call__(self, picture: Picture) -> torch.Tensor:
        return self.preparation.normalised(self.pixels(picture))

    def pixels(self, picture: Picture) -> torch.Tensor:
        return as_bytes(self.crop(read_picture(picture, self.preparation.open)))

    def crop(self, image: Image.Image | torch.Tensor) -> Image.Image | torch.Tensor:
        """The S x S part of an upright image that CLIP sees."""
        return self.preparation.square(image, ImageSource(getattr(image, "filename", "") or "image"))
