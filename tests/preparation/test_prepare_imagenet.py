"""ImageNet preparation: every layout of the validation images gives the same two lists."""

import subprocess
import sys
from pathlib import Path

import pytest

from context_i2w.benchmarks.imagenet_lists import QUERY_LIST, TARGET_LIST
from context_i2w.errors import UserError
from context_i2w.preparation import imagenet

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_imagenet.py"
WNIDS = ["n01440764", "n01443537", "n02099601"]  # the last one is not in the small ImageNet-R below
VAL = {1: WNIDS[1], 2: WNIDS[0], 3: WNIDS[2], 4: WNIDS[0]}


def image_name(number):
    return f"ILSVRC2012_val_{number:08d}"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data" / "imgnet"
    for name in (
        "n01440764/toy_3.jpg",
        "n01440764/art_1.jpg",
        "n01443537/cartoon_1.jpg",
        "n01443537/origami_0.jpg",
    ):
        (folder / "imagenet-r" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "imagenet-r" / name).write_bytes(b"r")
    (folder / "imagenet-r" / "README.txt").write_text("not a class")
    return folder


def make_val(folder, flat):
    for number, wnid in VAL.items():
        place = folder / ("" if flat else wnid)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{image_name(number)}.JPEG").write_bytes(wnid.encode())
    return folder


def write_classes(folder, kind):
    """One of the files or folders in which a flat folder's classes are found in the wild."""
    folder.mkdir(parents=True)
    if kind == "kaggle":
        rows = [f"{image_name(n)},{wnid} 1 2 3 4 {wnid} 5 6 7 8 " for n, wnid in VAL.items()]
        (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows, ""]))
        return folder / "LOC_val_solution.csv"
    if kind == "wnids":
        (folder / "labels.txt").write_text("".join(f"{wnid}\n" for wnid in VAL.values()))
        return folder / "labels.txt"
    if kind == "val.txt":
        order = [*WNIDS, *(f"n9{i:07d}" for i in range(997))]
        (folder / "synset_words.txt").write_text("".join(f"{wnid} some, words\n" for wnid in order))
        (folder / "val.txt").write_text("".join(f"{image_name(n)}.JPEG {order.index(w)}\n" for n, w in VAL.items()))
        return folder / "val.txt"
    for number, wnid in VAL.items():
        (folder / f"{image_name(number)}.xml").write_text(f"<object><name>{wnid}</name></object>")
    return folder


def run(root, val, classes=None, **options):
    targets = imagenet.find_targets(root / "imagenet-r")
    queries = imagenet.find_queries(val, sorted({t.wnid for t in targets}), classes)
    counts = imagenet.prepare(root, targets, queries, **options)
    return counts, (root / QUERY_LIST).read_text(), (root / TARGET_LIST).read_text()


def test_lists(root, tmp_path):
    counts, queries, targets = run(root, make_val(tmp_path / "val", flat=False))
    assert counts == {"real": 3, "toy": 1, "cartoon": 1, "origami": 1}
    assert queries == (
        "imgnet/real/n01440764/ILSVRC2012_val_00000002.JPEG 0\n"
        "imgnet/real/n01440764/ILSVRC2012_val_00000004.JPEG 0\n"
        "imgnet/real/n01443537/ILSVRC2012_val_00000001.JPEG 1\n"
    )
    assert targets == (
        "imgnet/imagenet-r/n01440764/toy_3.jpg 2000\n"
        "imgnet/imagenet-r/n01443537/cartoon_1.jpg 1\n"
        "imgnet/imagenet-r/n01443537/origami_0.jpg 1001\n"
        "imgnet/real/n01440764/ILSVRC2012_val_00000002.JPEG 6000\n"
        "imgnet/real/n01440764/ILSVRC2012_val_00000004.JPEG 6000\n"
        "imgnet/real/n01443537/ILSVRC2012_val_00000001.JPEG 6001\n"
    )
    assert (root / "real/n01443537/ILSVRC2012_val_00000001.JPEG").read_bytes() == b"n01443537"


@pytest.mark.parametrize("kind", ["kaggle", "wnids", "val.txt", "xml"])
def test_flat_layouts_equal_class_folders(root, tmp_path, kind):
    expected = run(root, make_val(tmp_path / "folders", flat=False))
    assert run(root, make_val(tmp_path / "flat", flat=True), write_classes(tmp_path / "classes", kind)) == expected


def test_copies_and_links_hold_the_same_and_what_is_there_stays(root, tmp_path):
    val = make_val(tmp_path / "val", flat=False)
    place = root / "real/n01440764/ILSVRC2012_val_00000002.JPEG"
    run(root, val, copy=True)
    assert not place.is_symlink()
    assert place.read_bytes() == b"n01440764"
    run(root, val, copy=False)
    assert not place.is_symlink()
    place.unlink()
    run(root, val, copy=False)
    assert place.is_symlink()


@pytest.mark.parametrize(
    ("content", "words"),
    [("490\n361\n", "development kit"), ("what is this\n", "fits no known list"), ("", "fits no known list")],
)
def test_unknown_class_files_are_named(tmp_path, content, words):
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(UserError, match=words):
        imagenet.read_classes(tmp_path / "list.txt")


def test_missing_things_are_named(root, tmp_path):
    with pytest.raises(UserError, match="unpack imagenet-r"):
        imagenet.find_targets(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--val-classes"):
        imagenet.find_queries(make_val(tmp_path / "flat", flat=True), WNIDS)
    with pytest.raises(UserError, match=r"1 of 4 classes \(n99999999\)"):
        imagenet.find_queries(make_val(tmp_path / "val", flat=False), [*WNIDS, "n99999999"])


def test_script(root, tmp_path):
    val = make_val(tmp_path / "val", flat=False)
    elsewhere = (root / "imagenet-r").rename(tmp_path / "in-r")
    command = [
        sys.executable,
        SCRIPT,
        "--data-root",
        root.parent,
        "--imagenet-val",
        val,
        "--imagenet-r",
        elsewhere,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "real            3 images (published: 10,000)" in done.stdout
    assert (root / "imagenet-r/n01440764/toy_3.jpg").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert "--overwrite" in again.stderr


@pytest.mark.parametrize(
    "content",
    [b"ImageId,PredictionString\nILSVRC2012_val_00000001\n", b"ImageId,PredictionString\nx,cup 1 2\n", b"\xff\n", b""],
)
def test_class_lists_that_are_none_are_named(tmp_path, content):
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"classes\.txt"):
        imagenet.read_classes(tmp_path / "classes.txt")


def test_hidden_files_and_links_that_lead_nowhere(tmp_path):
    (tmp_path / "val/n00000001").mkdir(parents=True)
    for name in ("a.JPEG", "._a.JPEG"):
        (tmp_path / "val/n00000001" / name).touch()
    (tmp_path / "r/n00000001").mkdir(parents=True)
    (tmp_path / "r/n00000001/toy_1.jpg").touch()
    (tmp_path / "r/n00000002").touch()
    targets = imagenet.find_targets(tmp_path / "r")
    queries = imagenet.find_queries(tmp_path / "val", ["n00000001"])
    assert [query.path.name for query in queries] == ["a.JPEG"]
    place = tmp_path / "imgnet/real/n00000001/a.JPEG"
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "gone.JPEG")
    imagenet.prepare(tmp_path / "imgnet", targets, queries)
    assert place.resolve() == (tmp_path / "val/n00000001/a.JPEG").resolve()
