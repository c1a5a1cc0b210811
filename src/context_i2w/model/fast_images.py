"""The fast way from a JPEG to CLIP's square: decoded and resized as bytes by torch, not by Pillow.

Where it differs from `Preparation`, it is by one grey level (more only where a tiny image is enlarged);
docs/performance.md measures in how many values. What is no plain JPEG goes through Pillow
and is the same to the bit: other formats, CMYK, files turned by EXIF, boxes and borders, what torchvision can't read.
"""

import os
import warnings
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from context_i2w.model.images import ImageSource, Picture, Preparation, check_pixels, load, open_header, resized_size

ORIENTATION = 0x0112  # EXIF's tag; 1 is upright


class FastPreparation(Preparation):
    """`Preparation` at more than twice its speed."""

    def open(self, path: str | os.PathLike, content: bytes | None = None) -> Picture:
        """The decoded image. Raises BrokenImage, as Pillow finds it."""
        if content is None and os.path.isfile(path):
            content = Path(path).read_bytes()
        with open_header(path, content) as image:
            if content is not None and _is_plain_jpeg(image):
                try:
                    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
                except RuntimeError:
                    pass  # Pillow reads it all the same, or says what is wrong
            return load(image, path)

    def square(self, image: Picture, source: ImageSource) -> Picture:
        plain = not (source.box or self.transform.deviation) and source.view == "centre"
        if not (plain and isinstance(image, torch.Tensor)):
            return super().square(image, source)
        height, width = image.shape[1:]
        size = resized_size(width, height, self.image_size)
        check_pixels(source.path, *size)
        left, top = (round((length - self.image_size) / 2.0) for length in size)
        return _resized(image, *size)[:, top : top + self.image_size, left : left + self.image_size]

    def resized_part(self, image: Picture, box: tuple[int, int, int, int]) -> Picture:
        if not isinstance(image, torch.Tensor):
            return super().resized_part(image, box)
        top, left, height, width = box
        return _resized(image[:, top : top + height, left : left + width], self.image_size, self.image_size)


PREPARATIONS = {"exact": Preparation, "fast": FastPreparation}  # by the name of the option --image-reader


def _is_plain_jpeg(image: Image.Image) -> bool:
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF
        return "exif" not in image.info or image.getexif().get(ORIENTATION, 1) == 1


def _resized(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Bicubic with antialiasing, on bytes, channels last: Pillow's arithmetic with fewer bits in its weights."""
    return interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]
