"""The fast preparation beside the exact one: a grey level for a JPEG, the same bits for all else."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from context_i2w.model.fast_images import FastPreparation, _is_bare_jpeg, _is_upright_jpeg
from context_i2w.model.images import BrokenImage, ImageSource, Preparation, open_header

SIZE, HALF = 56, (0.5, 0.5, 0.5)
EXACT, FAST = Preparation(SIZE, HALF, HALF), FastPreparation(SIZE, HALF, HALF)


def picture(width: int, height: int, seed: int, mode: str = "RGB") -> Image.Image:
    """Smooth shapes with noise on them, as photographs are."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (5, 7, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(coarse, np.int16) + random.integers(-20, 20, (height, width, 3), dtype=np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def squares(content: bytes, box=None, view="centre"):
    source = ImageSource("name", box, view)
    return [way.normalised(way.square(way.open("name", content), source)) for way in (EXACT, FAST)]


@given(st.integers(120, 400), st.integers(120, 400), st.integers(0, 99), st.sampled_from(["RGB", "L"]), st.booleans())
@example(120, 258, 18, "RGB", False)  # where one value of three million differs by two
@settings(max_examples=30, deadline=None)
def test_a_jpeg_differs_by_a_grey_level_and_hardly_ever_by_two(width, height, seed, mode, progressive):
    content = encoded(picture(width, height, seed, mode), quality=90, progressive=progressive)
    assert isinstance(FAST.open("name", content), torch.Tensor)
    exact, fast = squares(content)
    difference = (exact - fast).abs() * 0.5 * 255
    assert difference.max() < 2.01
    assert (difference > 1.01).sum() <= 2
    assert difference.mean() < 0.3
    box = (height // 5, width // 7, height - height // 5, width - width // 7)
    exact, fast = (way.normalised(way.resized_part(way.open("name", content), box)) for way in (EXACT, FAST))
    assert ((exact - fast).abs() * 0.5 * 255).max() < 2.01
    part = FAST.resized_part(FAST.open("name", content), box)
    assert part.permute(1, 2, 0).is_contiguous()  # nothing turns it about on its way into a batch


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("RGBA", "WEBP")])
def test_what_is_no_plain_jpeg_is_pillows_to_the_bit(mode, kind):
    exact, fast = squares(encoded(picture(90, 70, 1, "RGB").convert(mode), kind))
    assert torch.equal(exact, fast)


@pytest.mark.parametrize(("box", "view"), [((5, 5, 60, 50), "centre"), (None, "square"), (None, "pad")])
def test_boxes_and_borders_are_pillows(box, view):
    assert torch.equal(*squares(encoded(picture(120, 70, 2), quality=95), box, view))


def test_a_turned_jpeg_is_left_to_pillow():
    image = picture(80, 60, 3)
    for orientation, kind in ((1, torch.Tensor), (6, Image.Image)):
        exif = image.getexif()
        exif[0x0112] = orientation
        assert isinstance(FAST.open("name", encoded(image, exif=exif)), kind)


@given(st.sampled_from(["RGB", "L", "CMYK"]), st.booleans(), st.booleans(), st.integers(0, 700), st.binary(max_size=3))
@settings(deadline=None)
def test_a_bare_header_is_what_pillow_calls_an_upright_jpeg(mode, progressive, exif, place, damage):
    image = picture(24, 16, 1, mode)
    tags = Image.Exif()
    tags[0x0112] = 3
    whole = encoded(image, progressive=progressive, comment=b"made", **({"exif": tags} if exif else {}))
    assert _is_bare_jpeg(whole) == (mode != "CMYK" and not exif)
    content = whole[:place] + damage + whole[place + len(damage) :]
    if _is_bare_jpeg(content):
        with contextlib.suppress(BrokenImage):  # torchvision can't decode it either, and Pillow says why
            assert _is_upright_jpeg(open_header("name", content))


def test_faults_are_those_of_pillow(tmp_path):
    content = encoded(picture(80, 60, 4))
    faults = {"short.jpg": content[: len(content) // 2], "text.jpg": b"no image", "empty.jpg": b""}
    for name, fault in faults.items():
        (tmp_path / name).write_bytes(fault)
    for name in (*faults, "missing.jpg", "."):
        reasons = []
        for way in (EXACT, FAST):
            with pytest.raises(BrokenImage) as raised:
                way.pixels(ImageSource(str(tmp_path / name)))
            reasons.append(str(raised.value))
        assert reasons[0] == reasons[1]


def test_clip_normalises_bytes_as_the_preparation_does(golden_clip):
    size = golden_clip.sizes.image_size
    pixels = torch.from_numpy(np.array(picture(size, size, 5))).permute(2, 0, 1)[None]
    floats = Preparation(size, golden_clip.image_mean, golden_clip.image_std).normalised(pixels)
    assert torch.equal(golden_clip.encode_image(pixels).embedding, golden_clip.encode_image(floats).embedding)
