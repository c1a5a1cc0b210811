"""The fast way from a JPEG to CLIP's square: decoded and resized as bytes by torch, not by Pillow.

Where it differs from `Preparation`, it is by one grey level, hardly ever by two (more only where a tiny image is
enlarged); docs/performance.md measures in how many values. What is no plain JPEG goes through Pillow and is the same to
the bit: other formats, CMYK, files turned by EXIF, boxes and borders, what torchvision can't read.
"""

import os
import struct
import warnings

import torch
import torchvision  # noqa: F401  brings torch's operator that decodes
from PIL import Image
from torch.nn.functional import interpolate

from context_i2w.model.images import (
    MAX_PIXELS,
    ImageSource,
    Picture,
    Preparation,
    check_pixels,
    content_of,
    open_header,
    open_image,
    resized_size,
)

RGB = 3  # torchvision.io.ImageReadMode
ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
TABLES = (b"\xff\xe0", b"\xff\xdb", b"\xff\xc4", b"\xff\xdd", b"\xff\xfe")  # JPEG's markers
FRAMES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2")


class FastPreparation(Preparation):
    """`Preparation` at more than twice its speed."""

    def open(self, path: str | os.PathLike, content: bytes | None = None) -> Picture:
        """The decoded image. Raises BrokenImage, as Pillow finds it."""
        content = content_of(path) if content is None else content
        if content is not None and _is_plain_jpeg(path, content):
            try:  # torchvision.io's function around it warns at every picture that it may go one day
                return torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), RGB)
            except (AttributeError, RuntimeError):
                pass  # Pillow reads it all the same, or says what is wrong
        return open_image(path, content)

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


def _is_plain_jpeg(path: str | os.PathLike, content: bytes) -> bool:
    return _is_bare_jpeg(content) or _is_upright_jpeg(open_header(path, content))


def _is_bare_jpeg(content: bytes) -> bool:
    """Whether there is nothing but JFIF's marker, tables and comments before a frame of bytes, grey or in colour.

    A tenth of Pillow's time for a header; all others are left to it.
    """
    place = 2 if content.startswith(b"\xff\xd8") else len(content)
    while (marker := content[place : place + 2]) in TABLES:
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    if marker not in FRAMES:
        return False
    precision, height, width, components = struct.unpack(">BHHB", content[place + 4 : place + 10].ljust(6, b"\0"))
    return precision == 8 and 0 < width * height <= MAX_PIXELS and components in (1, 3)


def _is_upright_jpeg(image: Image.Image) -> bool:
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF
        return "exif" not in image.info or image.getexif().get(ORIENTATION, 1) == 1


def _resized(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Bicubic with antialiasing, on bytes, channels last: Pillow's arithmetic with fewer bits in its weights."""
    rows = image.permute(1, 2, 0).contiguous()[None]  # so that torch sees its layout, and returns the same
    return interpolate(rows.permute(0, 3, 1, 2), (height, width), mode="bicubic", antialias=True)[0]
