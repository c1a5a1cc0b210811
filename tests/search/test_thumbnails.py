"""Pictures as they are indexed: large JPEGs at the scale needed, thumbnails beside features, unread kinds counted."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tests.search.test_retriever import draw
from torch.nn.functional import cosine_similarity

from context_i2w.errors import UserError
from context_i2w.files import FileState
from context_i2w.model.images import MAX_PIXELS, BrokenImage, ImageSource, Preparation, open_header, open_image
from context_i2w.search import files as files_module
from context_i2w.search import indexing, thumbnails
from context_i2w.search.files import files_of_folder
from context_i2w.search.pictures import HEIF, PicturePreparation, read_picture
from context_i2w.search.thumbnails import SIZE, Thumbnails, thumbnail


@pytest.fixture
def photos(tmp_path):
    for number in range(4):
        photograph(tmp_path / "photos" / f"{number}.jpg", number)
    return tmp_path / "photos"


def photograph(path, seed, size=(1200, 900), **options):
    """A smooth picture with grain, as photographs are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    grain = Image.effect_noise(size, 60).convert("RGB")
    Image.blend(coarse.resize(size, Image.Resampling.BICUBIC), grain, 0.2).save(path, **options)
    return path


def opened(monkeypatch):
    """Names of the originals that are opened from now on, each once in a row."""
    seen = []

    def watched(path, *more):
        seen[len(seen) - (seen[-1:] == [os.path.basename(path)]) :] = [os.path.basename(path)]
        return open_header(path, *more)

    for module in ("search.pictures", "model.images", "model.fast_images"):
        monkeypatch.setattr(f"context_i2w.{module}.open_header", watched)
    return seen


def size_of(jpeg):
    return Image.open(io.BytesIO(jpeg)).size


def test_thumbnails_are_made_while_indexing_and_no_original_is_decoded_again(retriever, photos, tmp_path, monkeypatch):
    seen = opened(monkeypatch)
    index = retriever.index(photos, tmp_path / "cache")
    assert seen == index.names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert [size_of(index.thumbnail(name)) for name in index.names] == [(SIZE, 192)] * 4
    again = retriever.index(photos, tmp_path / "cache")
    assert again.thumbnail("2.jpg") == index.thumbnail("2.jpg") != index.thumbnail("1.jpg")
    assert len(seen) == 4
    with pytest.raises(KeyError):
        index.thumbnail("../photos/0.jpg")


def test_thumbnails_follow_their_files(retriever, photos, tmp_path, monkeypatch):
    before = retriever.index(photos, tmp_path / "cache").thumbnail("0.jpg")
    photograph(photos / "0.jpg", 77)
    (photos / "3.jpg").unlink()
    seen = opened(monkeypatch)
    index = retriever.index(photos, tmp_path / "cache")
    assert index.thumbnail("0.jpg") != before
    assert seen == ["0.jpg"]
    assert len(list((index.store.folder / "thumbnails").glob("*/*"))) == 3


def test_an_index_without_thumbnails_gets_them_when_they_are_asked_for(retriever, photos, tmp_path, monkeypatch):
    seen = opened(monkeypatch)
    index = retriever.index(photos, tmp_path / "cache", thumbnails=False)
    assert not (index.store.folder / "thumbnails").exists()
    first = index.thumbnail("1.jpg")
    assert size_of(first) == (SIZE, 192)
    assert seen[4:] == ["1.jpg"]
    assert index.thumbnail("1.jpg") == first
    assert seen[4:] == ["1.jpg"]
    (photos / "2.jpg").unlink()
    assert index.thumbnail("2.jpg") is None


def test_a_full_disk_costs_thumbnails_only(retriever, photos, tmp_path, monkeypatch):
    class Full(type(tmp_path)):
        def write_bytes(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(thumbnails, "Path", Full)
    monkeypatch.setattr(thumbnails.Thumbnails, "_path", lambda self, *_: Full(self.folder / "ab" / "c.jpg"))
    index = retriever.index(photos, tmp_path / "cache")
    assert len(index) == 4
    assert size_of(index.thumbnail("1.jpg")) == (SIZE, 192)
    assert list((index.store.folder / "thumbnails").glob("*/*")) == []


def test_a_half_written_thumbnail_is_never_seen(tmp_path):
    kept, state = Thumbnails(tmp_path), FileState(1, 2)
    kept.write("a", state, b"whole")
    left = next(tmp_path.glob("*/*")).with_suffix(".99.tmp")
    left.write_bytes(b"ha")
    assert (kept.read("a", state), kept.read("a", FileState(1, 3)), kept.read("b", state)) == (b"whole", None, None)
    kept.keep_only({"a": state})
    assert not left.exists()
    assert kept.read("a", state) == b"whole"
    kept.keep_only({})
    assert kept.read("a", state) is None


def test_small_pictures_keep_their_size():
    assert size_of(thumbnail(Image.new("RGB", (48, 30)))) == (48, 30)
    image = Image.new("RGB", (1000, 400))
    assert size_of(thumbnail(image)) == (SIZE, 102)
    assert image.size == (1000, 400)


@pytest.fixture
def preparations(golden_clip):
    """Ours and the benchmarks', for the same CLIP."""
    mean, std = golden_clip.image_mean, golden_clip.image_std
    return PicturePreparation(56, mean, std), Preparation(56, mean, std)


@pytest.mark.parametrize("size", [(600, 511), (511, 700)])
def test_a_jpeg_below_twice_what_is_enough_is_decoded_whole(tmp_path, preparations, size):
    ours, exact = preparations
    path = photograph(tmp_path / "a.jpg", 1, size)
    assert ours.read(path).shape == (3, size[1], size[0])
    assert ((ours(path) - exact(ImageSource(str(path)))) * 255).abs().max() < 4.1  # a grey level, over CLIP's std


def test_a_large_jpeg_gives_nearly_the_same_tensor_and_feature(tmp_path, preparations, golden_clip):
    ours, exact = preparations
    path = photograph(tmp_path / "a.jpg", 1, (2400, 2048), quality=92)
    assert ours.read(path).size == (300, 256)  # an eighth
    found, wanted = ours(path), exact(ImageSource(str(path)))
    assert 0 < (found - wanted).abs().mean() < 0.03
    features = golden_clip.encode_image(torch.stack([found, wanted])).embedding
    assert cosine_similarity(*features, dim=0) > 0.9995


def test_a_large_jpeg_is_turned_as_exif_says(tmp_path, preparations):
    ours, _ = preparations
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = photograph(tmp_path / "a.jpg", 1, (2400, 2048), quality=95)
    Image.open(plain).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.jpg", exif=exif, quality=95)
    assert ours.read(tmp_path / "b.jpg").size == (300, 256)
    assert (ours(tmp_path / "b.jpg") - ours(plain)).abs().mean() < 0.03


def test_what_is_open_already_and_other_kinds_are_taken_whole(tmp_path, preparations):
    ours, exact = preparations
    path = photograph(tmp_path / "a.jpg", 1)
    wanted = exact(ImageSource(str(path)))
    with Image.open(path) as image:
        assert torch.equal(ours(image), wanted)
        assert image.size == (1200, 900)
    png = photograph(tmp_path / "a.png", 1)
    assert torch.equal(ours(png), exact(ImageSource(str(png))))
    assert read_picture(path).size == (1200, 900)


def test_the_bound_on_pixels_is_the_true_one(tmp_path):
    path = tmp_path / "huge.gif"
    Image.new("L", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[6:10] = (65535).to_bytes(2, "little") * 2
    path.write_bytes(content)
    with pytest.raises(BrokenImage, match=f"over the bound of {MAX_PIXELS:,} pixels"):
        open_image(path)


def test_kinds_that_nothing_here_reads_are_named_with_a_count(retriever, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files_module, "SUFFIXES", files_module.SUFFIXES - files_module.HEIC)
    monkeypatch.setattr(files_module, "UNREAD", files_module.UNREAD | files_module.HEIC)
    for name in ("a.HEIC", "deeper/b.heic", "c.cr2", ".hidden.heic"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    index = retriever.index(photos, tmp_path / "cache")
    assert (len(index), index.files.unread) == (4, {".heic": 2, ".cr2": 1})
    line = "pictures of kinds that can't be read are left out: 1 .cr2, 2 .heic (`pip install pillow-heif` reads HEIC)"
    assert f"{photos}: {line}\n" == capsys.readouterr().err
    for path in photos.glob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match=r"it holds 1 \.cr2, 2 \.heic"):
        files_of_folder(photos)


@pytest.mark.skipif(not HEIF, reason="needs pillow-heif")
def test_heic_is_read_where_pillow_heif_is_installed(retriever, photos, tmp_path):
    image = Image.open(photos / "0.jpg")
    image.save(photos / "phone.HEIC", quality=95)
    index = retriever.index(photos, tmp_path / "cache")
    assert index.files.unread == {}
    features = torch.from_numpy(index.features[[index.row("0.jpg"), index.row("phone.HEIC")]])
    assert cosine_similarity(*features, dim=0) > 0.999
    assert size_of(index.thumbnail("phone.HEIC")) == (SIZE, 192)


def test_without_pillow_heif_everything_else_works(photos):
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from context_i2w.search.files import files_of_folder, SUFFIXES\n"
        f"assert '.heic' not in SUFFIXES and len(files_of_folder({str(photos)!r}).states) == 4"
    )
    environment = {**os.environ, "PYTHONPATH": "src"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_reading_in_processes_keeps_thumbnails_too(retriever, tmp_path):
    for number in range(indexing.FEW + 2):
        draw(tmp_path / "photos" / f"{number:02}.jpg", number, (90, 80))
    options = indexing.EncodingOptions(workers=1)
    index = retriever.index(tmp_path / "photos", tmp_path / "cache", options)
    assert len(list((index.store.folder / "thumbnails").glob("*/*.jpg"))) == len(index)
