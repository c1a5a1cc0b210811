"""Image preparation: equal to the published transforms, in every mode; damaged files say what is wrong."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms

from context_i2w.model.images import MAX_PIXELS, BrokenImage, ImageSource, Preparation, open_image

GOLDEN = Path(__file__).parents[1] / "golden"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZE = 56
MODES = ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"]


@pytest.fixture(scope="module")
def prepare():
    return Preparation(SIZE, MEAN, STD)


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "eval_small.safetensors")


def picture(mode="RGB", size=(97, 131), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode in ("LA", "PA", "RGBA"):
        return Image.fromarray(pixels, "RGBA").convert(mode)
    return Image.fromarray(pixels[..., :3]).convert(mode)


@pytest.mark.parametrize(("view", "name"), [("centre", "eval"), ("square", "region"), ("pad", "target_pad_eval")])
def test_golden_transforms(prepare, golden, tmp_path, view, name):
    path = tmp_path / "image.png"
    Image.fromarray(golden["preprocess.input_uint8"].numpy()).save(path)
    prepared = prepare(ImageSource(str(path), view=view))
    assert (prepared - golden[f"preprocess.{name}"]).abs().max() <= 1e-6


@pytest.mark.parametrize("size", [(97, 131), (131, 97), (56, 56), (1, 200), (3, 2), (57, 56)])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_equals_the_published_order(prepare, mode, size):
    published = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    image = picture(mode, size)
    ours = prepare.normalised(prepare.square(image, ImageSource("x")).convert("RGB"))
    assert torch.equal(ours, published(image))


def test_converting_first_would_differ(prepare, tmp_path):
    path = tmp_path / "image.png"
    picture("RGBA").save(path)
    source = ImageSource(str(path))
    first = prepare.normalised(prepare.square(Image.open(path).convert("RGB"), source))
    assert (prepare(source) - first).abs().max() > 0.1


@pytest.mark.parametrize(
    ("written", "name"), [("JPEG", "a.png"), ("GIF", "a.png"), ("PNG", "a.JPEG"), ("WEBP", "a.jpg")]
)
def test_the_decoder_goes_by_content(prepare, tmp_path, written, name):
    right, wrong = tmp_path / f"right.{written.lower()}", tmp_path / name
    picture().save(right, format=written)
    wrong.write_bytes(right.read_bytes())
    assert torch.equal(prepare(ImageSource(str(wrong))), prepare(ImageSource(str(right))))


def test_exif_orientation_is_ignored(prepare, tmp_path):
    plain, turned = tmp_path / "plain.jpg", tmp_path / "turned.jpg"
    image = picture()
    image.save(plain, quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(turned, quality=90, exif=exif)
    assert torch.equal(prepare(ImageSource(str(plain))), prepare(ImageSource(str(turned))))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "MPO", "TIFF"])
def test_several_frames_give_the_first(prepare, tmp_path, kind):
    path, first = tmp_path / f"many.{kind.lower()}", tmp_path / f"one.{kind.lower()}"
    frames = [picture(seed=i) for i in range(3)]
    frames[0].save(path, format=kind, save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(first, format=kind, lossless=True)
    difference = prepare(ImageSource(str(path))) - prepare(ImageSource(str(first)))
    assert difference.abs().mean() < 0.05  # GIF palettes may differ a little


def test_palette_with_transparency_does_not_warn(prepare, tmp_path, recwarn):
    path = tmp_path / "image.png"
    image = picture("P")
    image.info["transparency"] = bytes(range(256))
    image.save(path)
    prepare(ImageSource(str(path)))
    assert not recwarn.list


def test_box_is_cut_out_first(prepare, tmp_path):
    whole, part = tmp_path / "whole.png", tmp_path / "part.png"
    picture().save(whole)
    picture().crop((10, 20, 60, 100)).save(part)
    boxed = prepare(ImageSource(str(whole), (10, 20, 60, 100), "square"))
    assert torch.equal(boxed, prepare(ImageSource(str(part), view="square")))


def test_black_square_leaves_out_what_is_outside_and_pads(prepare, tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 80), "white").save(path)
    shown = prepare(ImageSource(str(path), (-10, -10, 50, 200), "black-square"))
    assert shown[0, 28, 0] == shown[0].min()  # border
    assert shown[0, 0, 28] == shown[0].max()  # the image reaches top and bottom


def test_unknown_view_is_refused(prepare, tmp_path):
    path = tmp_path / "image.png"
    picture().save(path)
    with pytest.raises(BrokenImage, match="unknown view"):
        prepare(ImageSource(str(path), view="round"))


def test_missing_and_undecodable_files_are_named(prepare, tmp_path):
    text, half = tmp_path / "text.jpg", tmp_path / "half.png"
    text.write_text("not an image")
    picture().save(half)
    half.write_bytes(half.read_bytes()[:2000])
    for path in (tmp_path / "absent.jpg", text, half, tmp_path):
        with pytest.raises(BrokenImage) as caught:
            prepare(ImageSource(str(path)))
        assert caught.value.path == str(path)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_pixels_are_bounded_before_decoding(monkeypatch, tmp_path):
    path = tmp_path / "image.png"
    picture().save(path)
    monkeypatch.setattr("context_i2w.model.images.MAX_PIXELS", 97 * 131 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BrokenImage, match="over the bound"):
        open_image(path)


def test_a_strip_that_would_grow_without_bound_is_refused(prepare, tmp_path):
    path = tmp_path / "strip.png"
    Image.new("1", (1, 1 + MAX_PIXELS // SIZE // SIZE)).save(path)
    with pytest.raises(BrokenImage, match="over the bound"):
        prepare(ImageSource(str(path)))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(BrokenImage, match="not a file"):
        open_image(tmp_path / "image.png")
