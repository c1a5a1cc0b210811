"""The toy world's benchmarks, renamed into each layout met in the wild, evaluate to the same numbers."""

import shutil
from pathlib import Path

import pytest

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.checkpoints.published import ours_from_published, parse_published
from context_i2w.evaluation.evaluate import evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.model.mappers import ContextI2W


@pytest.fixture(scope="module")
def toy(mini_world):
    return mini_world / "test"


@pytest.fixture
def root(toy, tmp_path):
    return Path(shutil.copytree(toy, tmp_path / "data"))


@pytest.fixture(scope="module")
def mapper(golden_clip, golden_mapper_state):
    mapper = ContextI2W(golden_clip.sizes, parse_published({"state_dict_img2text": golden_mapper_state}, "g").options)
    mapper.load_state_dict(ours_from_published(golden_mapper_state, list(mapper.state_dict())))
    return mapper.eval()


@pytest.fixture(scope="module")
def expected(toy, golden_clip, mapper):
    finished = {}

    def once(mode):
        if mode not in finished:
            finished[mode] = numbers(mode, toy, golden_clip, mapper)
        return finished[mode]

    return once


def numbers(mode, root, clip, mapper):
    benchmark = BENCHMARKS[mode].load(root, None)
    return evaluate(benchmark, clip, {"composed": mapper}, EncodingOptions(workers=0)).metrics


def folder(root, *names):
    """The one of these folders that is there, whatever its case."""
    return next(path for path in root.iterdir() if path.name.lower() in names)


def cirr_flat(root):
    base = folder(root, "cirr")
    base.rename(root / "renamed")
    (root / "renamed").rename(root / "CIRR")


def cirr_raw(root):
    base = folder(root, "cirr")
    (base / "img_raw").mkdir()
    (base / "dev").rename(base / "img_raw" / "dev")


def cirr_nested(root):
    base = folder(root, "cirr")
    inner = base / "cirr"
    inner.mkdir()
    for name in ("captions", "image_splits"):
        (base / name).rename(inner / name)


def fashion_captions(root):
    base = folder(root, "fashion-iq", "fashioniq")
    present, other = ("json", "captions") if (base / "json").is_dir() else ("captions", "json")
    (base / present).rename(base / other)


def fashion_folder(root):
    folder(root, "fashion-iq", "fashioniq").rename(root / "fashionIQ_dataset")


def imagenet_without_lists(root):
    for path in (root / "imgnet").glob("*.txt"):
        path.unlink()


@pytest.mark.parametrize(
    ("mode", "layout"),
    [
        ("cirr", cirr_flat),
        ("cirr", cirr_raw),
        ("cirr", cirr_nested),
        ("fashion", fashion_captions),
        ("fashion", fashion_folder),
        ("imgnet", imagenet_without_lists),
    ],
)
def test_every_layout_gives_the_same_numbers(root, expected, mode, layout, golden_clip, mapper):
    layout(root)
    found = numbers(mode, root, golden_clip, mapper)
    for group, rows in expected(mode).items():
        for row, metrics in rows.items():
            assert found[group][row] == pytest.approx(metrics, abs=1e-9)  # the order of a sum may differ
