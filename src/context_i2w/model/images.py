"""Reading images and preparing them for CLIP, in the published order of operations.

The published evaluation resizes (bicubic) and crops an image in its *own* mode and converts to RGB last.
Pillow therefore resizes palette and 1-bit images by nearest neighbour, and resizes alpha premultiplied before
it is dropped. Converting first changes features (cosine down to 0.93 for RGBA), so the order is kept. The
decoder goes by content, never by file name, and EXIF orientation is ignored.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

# Pillow's own limit against decompression bombs; checked on the header, before any pixel is decoded, and
# again on the resized image (a strip of 1 x 100,000 pixels would become 224 x 22,400,000).
MAX_PIXELS = 178_956_970

# Ratio of the long to the short side above which the "pad" view pads (SEARLE, LinCIR, CLIP4Cir).
TARGET_PAD_RATIO = 1.25

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = {
    "shortest": "shorter side resized, centre crop",
    "squash": "both sides resized to a square (squash)",
    "longest": "longer side resized, padded to a square",
}
VIEWS = ("centre", "square", "pad", "rgb-first", "black-square")


class ImageSource(NamedTuple):
    """One distinct input of the vision tower: a file, the part of it and how that part becomes a square.

    box: x1, y1, x2, y2 in pixels, cut out first; parts outside the image are black ("black-square" leaves
    them out).
    view: "centre" is the transform of CLIP's weights, nearly always the shorter side resized and the centre cropped;
    "square" resizes without cropping (COCO regions); "pad" pads the shorter side to a ratio of at most 1.25 in black,
    then as "centre"; "rgb-first" is RGB before it is resized, its crop's offset rounded down (LinCIR);
    "black-square" pads to a square in black, then as "centre" (GeneCIS).
    """

    path: str
    box: tuple[int, int, int, int] | None = None
    view: str = "centre"


class ImageTransform(NamedTuple):
    """The evaluation transform of CLIP's weights, in open_clip's words."""

    size: int  # of CLIP's input, S
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0  # of the border that "longest" leaves

    def check(self) -> None:
        """Raises ValueError for values that open_clip does not know."""
        if self.interpolation not in FILTERS or self.resize_mode not in RESIZE_MODES:
            raise ValueError(f"a transform by {self.interpolation!r:.40} and {self.resize_mode!r:.40} is not known")
        if len(self.mean) != 3 or len(self.std) != 3 or 0 in self.std:
            raise ValueError("mean and std are three numbers each, std without a zero")

    @property
    def deviation(self) -> str | None:
        """How it differs from CLIP's own but for mean and std; None if it does not."""
        if (self.interpolation, self.resize_mode) == ("bicubic", "shortest"):
            return None
        return f"{RESIZE_MODES[self.resize_mode]}, {self.interpolation}"


Picture = Image.Image | torch.Tensor  # the fast reader's plain JPEG is [3, H, W] uint8, all else Pillow's


@dataclass(frozen=True)
class Packed(os.PathLike):
    """A picture inside another file, such as a tar: its bytes, and a path that names it and leads nowhere."""

    path: Path
    file: Path
    begin: int
    size: int

    def __fspath__(self) -> str:
        return str(self.path)

    def read_bytes(self) -> bytes:
        """Raises OSError where the file is gone."""
        with open(self.file, "rb") as file:
            file.seek(self.begin)
            return file.read(self.size)


def content_of(path: str | os.PathLike) -> bytes | None:
    """The bytes of a file or of a packed picture; None for what can't be read, of which `open_image` says why."""
    with contextlib.suppress(OSError, MemoryError):
        if isinstance(path, Packed):
            return path.read_bytes()
        if os.path.isfile(path):
            with open(path, "rb", buffering=0) as file:
                return file.read()
    return None


class BrokenImage(Exception):
    """A file that is missing, can't be decoded or is too large; `path` and `reason` say which and why."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)  # both as args, so that it survives the way back from a worker process
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def open_image(path: str | os.PathLike, content: bytes | None = None) -> Image.Image:
    """The decoded image (first frame) in its own mode; `content` instead of the file's. Raises BrokenImage."""
    with open_header(path, content) as image:
        return load(image, path)


def open_header(path: str | os.PathLike, content: bytes | None = None) -> Image.Image:
    """The image before any pixel is decoded, within the bound of pixels. Raises BrokenImage."""
    packed, path = path, os.fspath(path)
    try:
        if content is None and isinstance(packed, Packed):
            content = packed.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb warning: our own bound follows
            if content is None and not stat.S_ISREG(os.stat(path).st_mode):
                raise BrokenImage(path, "not a file")  # a pipe would be waited for
            image = Image.open(path if content is None else io.BytesIO(content))
    except FileNotFoundError:
        raise BrokenImage(path, "no such file") from None
    except Image.DecompressionBombError:
        raise BrokenImage(path, f"over the bound of {MAX_PIXELS:,} pixels") from None
    except BrokenImage:
        raise
    except Exception as error:  # a damaged header can raise nearly anything
        raise BrokenImage(path, _reason(error)) from None
    check_pixels(path, *image.size)
    return image


def load(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    """The image of a header, decoded. Raises BrokenImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:
        raise BrokenImage(os.fspath(path), _reason(error)) from None
    return image


def check_pixels(path: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImage(path, f"{width} x {height} pixels is over the bound of {MAX_PIXELS:,}")


def _reason(error: Exception) -> str:
    if isinstance(error, (IsADirectoryError, PermissionError)):
        return str(error.strerror)
    text = str(error).splitlines()[0] if str(error) else ""
    return "not an image that can be decoded" + (f" ({text})" if text and "cannot identify" not in text else "")


class Preparation:
    """ImageSource -> float tensor [3, S, S], normalised for a CLIP: `Preparation(*clip.transform)`; `pixels`: before
    that, as bytes.

    Holds only numbers and words, so it can be sent to worker processes. Raises BrokenImage. `model/fast_images.py`
    does the same faster and nearly the same.
    """

    def __init__(self, image_size: int, mean: tuple[float, ...], std: tuple[float, ...], *more: Any):
        self.image_size = int(image_size)
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)
        self.transform = ImageTransform(self.image_size, self.mean, self.std, *more)

    def __call__(self, source: ImageSource) -> torch.Tensor:
        return self.normalised(self.pixels(source))

    def pixels(self, source: ImageSource) -> torch.Tensor:
        """[3, S, S] uint8, which FrozenCLIP.encode_image normalises on its device."""
        image = self.open(source.path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # palettes with transparency: dropping it is the published way
                return as_bytes(self.square(image, source))
        except (ValueError, OSError, MemoryError, ZeroDivisionError) as error:
            raise BrokenImage(source.path, _reason(error)) from None

    def open(self, path: str | os.PathLike, content: bytes | None = None) -> Picture:
        return open_image(path, content)

    def square(self, image: Picture, source: ImageSource) -> Picture:
        """The S x S image of a source, still in the file's own mode."""
        image = as_image(image)
        if source.box is not None:
            image = image.crop(_inside(source.box, image) if source.view == "black-square" else source.box)
        if source.view == "square":
            return image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        if source.view == "pad":
            image = target_pad(image, TARGET_PAD_RATIO)
        elif source.view == "black-square":
            image = target_pad(image, 1.0)
        elif source.view == "rgb-first":
            image = image.convert("RGB")
        elif source.view != "centre":
            raise ValueError(f"unknown view {source.view!r}, known: {', '.join(VIEWS)}")
        return self._as_clip_does(image, source.path, math.floor if source.view == "rgb-first" else round)

    def _as_clip_does(self, image: Image.Image, path: str, rounded: Callable[[float], int]) -> Image.Image:
        size, resample = self.image_size, FILTERS[self.transform.interpolation]
        if self.transform.resize_mode == "squash":
            return image.resize((size, size), resample)
        if self.transform.resize_mode == "longest":
            return _longest(image, size, self.transform)
        check_pixels(path, *resized_size(*image.size, size))
        return centre_crop(resize_shorter_side(image, size, resample), size, rounded)

    def resized_part(self, image: Picture, box: tuple[int, int, int, int]) -> Picture:
        """The part of an image at top, left, height, width as S x S pixels."""
        top, left, height, width = box
        part = as_image(image).crop((left, top, left + width, top + height))
        return part.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def normalised(self, image: Picture) -> torch.Tensor:
        return normalised(as_bytes(image), self.mean, self.std)


def as_image(picture: Picture) -> Image.Image:
    """Pillow's image of either kind."""
    if isinstance(picture, torch.Tensor):
        return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    return picture


def as_bytes(image: Picture) -> torch.Tensor:
    """[3, H, W] uint8 of an image of any mode, channels last in memory; a tensor is that already."""
    if isinstance(image, torch.Tensor):
        return image
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def normalised(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """[..., 3, H, W] uint8 -> float32 as CLIP takes it, by the same operations on every device."""
    shift, scale = (torch.tensor(numbers, device=pixels.device)[:, None, None] for numbers in (mean, std))
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div(255).sub(shift).div(scale)


def _inside(box: tuple[int, int, int, int], image: Image.Image) -> tuple[int, int, int, int]:
    """The box cut at the image's borders."""
    x1, y1, x2, y2 = box
    return max(x1, 0), max(y1, 0), min(x2, image.width), min(y2, image.height)


def resized_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height once the shorter side is `shorter`; the longer one is rounded down."""
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def resize_shorter_side(image: Image.Image, shorter: int, resample=Image.Resampling.BICUBIC) -> Image.Image:
    return image.resize(resized_size(*image.size, shorter), resample)


def _longest(image: Image.Image, size: int, transform: ImageTransform) -> Image.Image:
    from open_clip.transform import CenterCropOrPad, InterpolationMode, ResizeKeepRatio

    resize = ResizeKeepRatio(size, interpolation=InterpolationMode(transform.interpolation), longest=1)
    return CenterCropOrPad(size, transform.fill)(resize(image))


def centre_crop(image: Image.Image, size: int, rounded: Callable[[float], int] = round) -> Image.Image:
    left = rounded((image.width - size) / 2.0)
    top = rounded((image.height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def target_pad(image: Image.Image, ratio: float) -> Image.Image:
    """Black (zero) borders along the longer sides until long : short is `ratio`; narrower images stay.

    At a ratio of 1 a whole square, its odd pixel right or below (GeneCIS); else equal borders (SEARLE).
    """
    width, height = image.size
    if ratio == 1:
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        return ImageOps.expand(image, border=(left, top, side - width - left, side - height - top), fill=0)
    if max(width, height) / min(width, height) < ratio:
        return image
    wanted = max(width, height) / ratio
    horizontal = max(int((wanted - width) / 2), 0)
    vertical = max(int((wanted - height) / 2), 0)
    return ImageOps.expand(image, border=(horizontal, vertical, horizontal, vertical), fill=0)
