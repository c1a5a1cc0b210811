"""COCO preparation: masks, draws, the list's format, and resuming."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from context_i2w.errors import UserError
from context_i2w.preparation import coco
from context_i2w.preparation.coco_masks import decode_counts, polygon_mask, runs_mask, segmentation_mask

ROOT = Path(__file__).parents[2]


def encode_counts(counts):
    """COCO's compressed run-length code, written from its definition: the inverse of decode_counts."""
    text = ""
    for index, count in enumerate(counts):
        value = count - (counts[index - 2] if index > 2 else 0)
        while True:
            bits, value = value & 0x1F, value >> 5
            done = value == (-1 if bits & 0x10 else 0)
            text += chr((bits if done else bits | 0x20) + 48)
            if done:
                break
    return text


@given(st.lists(st.integers(0, 400_000), max_size=30))
def test_compressed_counts_come_back(counts):
    assert decode_counts(encode_counts(counts)) == counts


def test_known_compressed_code():
    # made with the COCO API: a 6 x 5 image whose pixels [1:4, 1:3] are set
    assert decode_counts("7330;") == [7, 3, 3, 3, 14]


def test_runs_go_down_the_columns():
    expected = np.array([[0, 1, 0], [0, 1, 0], [1, 0, 0]], dtype=bool)
    assert (runs_mask([2, 3, 4], 3, 3) == expected).all()


@given(*[st.integers(0, 9)] * 4)
def test_whole_number_rectangles_are_exact(x0, y0, width, height):
    x1, y1 = x0 + width + 1, y0 + height + 1
    expected = np.zeros((12, 13), dtype=bool)
    expected[y0:y1, x0:x1] = True
    assert (polygon_mask([x0, y0, x1, y0, x1, y1, x0, y1], 12, 13) == expected).all()


@given(st.lists(st.tuples(st.floats(-5, 45), st.floats(-5, 35)), min_size=3, max_size=8))
@settings(max_examples=60)
def test_polygons_agree_with_an_even_odd_test_away_from_the_border(points):
    """Independent definition: a ray from an inside pixel crosses the border an odd number of times."""
    mask = polygon_mask([value for point in points for value in point], 30, 40)
    starts, ends = np.array(points), np.roll(points, -1, axis=0)
    rows, columns = np.mgrid[:30, :40]
    centres = np.stack([columns, rows], -1).reshape(-1, 1, 2) + 0.5
    edge = ends - starts
    along = ((centres - starts) * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-12)
    nearest = starts + np.clip(along, 0, 1)[..., None] * edge
    clear = (np.linalg.norm(centres - nearest, axis=-1) > 1.0).all(1).reshape(30, 40)
    above = (starts[:, 1] > centres[..., 1]) != (ends[:, 1] > centres[..., 1])
    with np.errstate(all="ignore"):
        crossing = starts[:, 0] + (centres[..., 1] - starts[:, 1]) / edge[:, 1] * edge[:, 0]
    inside = ((above & (crossing > centres[..., 0])).sum(1) % 2 == 1).reshape(30, 40)
    assert (mask == inside)[clear].all()


def test_several_polygons_are_united_and_malformed_ones_refused():
    left, right = [0, 0, 2, 0, 2, 2, 0, 2], [1, 0, 4, 0, 4, 1, 1, 1]
    assert segmentation_mask([left, right], 2, 4).tolist() == [[True] * 4, [True, True, False, False]]
    with pytest.raises(ValueError, match="three points"):
        segmentation_mask([[0, 0, 1, 1]], 2, 4)
    with pytest.raises(ValueError, match="size"):
        segmentation_mask({"size": [3, 3], "counts": [9]}, 2, 4)
    with pytest.raises(ValueError, match="pixels"):
        runs_mask([4], 3, 3)


def box(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def instance(number, image, category, x, y, width, height, **more):
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0, "area": width * height,
        "bbox": [x, y, width, height], "segmentation": [box(x, y, width, height)], **more,
    }  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """Image 1: grey, three instances; 2: a run-length crowd; 3: too large; 4: none; 5: small; 6: tiny."""
    annotations = [
        instance(1, 1, 3, 2, 2, 5.5, 5), instance(2, 1, 1, 10, 3, 8, 8), instance(3, 1, 3, 0.5, 9, 10, 10),
        {"id": 4, "image_id": 2, "category_id": 2, "iscrowd": 1, "area": 80, "bbox": [5, 0, 4, 20],
         "segmentation": {"size": [20, 20], "counts": [100, 80, 220]}},
        instance(5, 3, 1, 0, 0, 20, 18), instance(6, 5, 1, 3, 3, 2, 2), instance(7, 6, 1, 4.2, 4, 0.2, 0.2),
    ]  # fmt: skip
    content = {
        "images": [
            {"id": number, "file_name": f"{number:012d}.jpg", "height": 20, "width": 20}
            for number in (6, 2, 1, 3, 4, 5)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "potted plant"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (tmp_path / "val2017").mkdir()
    for number in range(1, 7):
        image = Image.new("L" if number == 1 else "RGB", (20, 20), 60)
        image.save(tmp_path / "val2017" / f"{number:012d}.jpg", quality=95)
    return tmp_path


def read(root):
    return coco.read_annotations(root / "annotations" / "instances_val2017.json")


def test_area_filters(root):
    def names(area):
        return [int(q.file_name[:12]) for q in coco.draw_queries(read(root), coco.CocoOptions(area=area))]

    assert names("published") == [1, 2, 5]
    assert names("intended") == [1, 2]
    with pytest.raises(UserError, match="published, intended"):
        coco.CocoOptions(area="none")


def test_draws_depend_on_the_seed_alone(root):
    content = read(root)
    shuffled = {**content, "images": content["images"][::-1]}
    drawn = set()
    for seed in range(20):
        queries = coco.draw_queries(content, coco.CocoOptions(seed=seed))
        assert queries == coco.draw_queries(shuffled, coco.CocoOptions(seed=seed))
        drawn.add(queries[0].region)
    assert drawn == {(2, 2, 7.5, 7), (10, 3, 18, 11), (0.5, 9, 10.5, 19)}


def test_list_and_cut_outs(root):
    content = read(root)
    queries = coco.draw_queries(content, coco.CocoOptions())
    assert coco.prepare(root, queries) == 3
    rows = list(csv.DictReader(io.StringIO((root / "coco_eval.csv").read_text())))
    assert rows[1] == {
        "id": "000000000002.jpg", "query_regions": "5;0;9;20 ", "query_class": "dog", "classes": "",
    }  # fmt: skip
    assert {rows[0]["query_class"], rows[0]["classes"]} == {"cat", "potted plant"}
    with Image.open(root / "val2017_masked" / rows[0]["id"]) as grey:
        assert grey.mode == "L"
    with Image.open(root / "val2017" / rows[1]["id"]) as image:
        masked, pixels = np.asarray(coco.cut_out(image, queries[1])), np.asarray(image)
    assert (masked[:, 5:9] == pixels[:, 5:9]).all()
    assert (np.delete(masked, np.s_[5:9], axis=1) == 255).all()


def test_stopped_run_goes_on_and_equals_an_unbroken_one(root):
    queries = coco.draw_queries(read(root), coco.CocoOptions())

    def stop_after_two(todo):
        for number, item in enumerate(todo):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        coco.prepare(root, queries, stop_after_two)
    assert not (root / "coco_eval.csv").exists()
    assert coco.prepare(root, queries) == 1
    assert sorted(path.name for path in (root / "val2017_masked").iterdir()) == [q.file_name for q in queries]


def test_equals_the_published_script_on_its_own_draws(golden_data):
    """The list and the cut-outs that the published preparation made of a small COCO, drawn as it drew."""
    golden = golden_data / "coco"
    content = read(golden)
    expected = (golden / "coco_eval.csv").read_text()
    regions = {row["id"]: row["query_regions"].strip() for row in csv.DictReader(io.StringIO(expected))}
    queries = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        drawn = regions.get(image["file_name"])
        alternatives = {";".join(map(str, q.region)): q for q in every_query(content, image)}
        if drawn:
            queries.append(alternatives[drawn])
    assert coco.list_text(queries) == expected
    for query in queries:
        with Image.open(golden / "val2017" / query.file_name) as image:
            masked = io.BytesIO()
            coco.cut_out(image, query).save(masked, format="JPEG")
        with Image.open(masked) as ours, Image.open(golden / "val2017_masked" / query.file_name) as theirs:
            difference = np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)
        assert ours.mode == theirs.mode
        assert abs(difference).max() <= 2  # equal bytes with one JPEG encoder; builds round differently


def every_query(content, image):
    """All the queries that seeds may draw from one image."""
    only = {**content, "images": [image]}
    return {q.region: q for seed in range(200) for q in coco.draw_queries(only, coco.CocoOptions(seed=seed))}.values()


def test_missing_images_are_named_before_anything_is_written(root):
    (root / "val2017" / "000000000002.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 3 images \(000000000002.jpg\)"):
        coco.prepare(root, coco.draw_queries(read(root), coco.CocoOptions()))
    assert not (root / "val2017_masked").exists()


def test_wrong_annotation_files_are_refused(tmp_path):
    path = tmp_path / "instances.json"
    with pytest.raises(UserError, match="is missing"):
        coco.read_annotations(path)
    for content, words in (("{", "not JSON"), ("[1]", "an object is expected")):
        path.write_text(content)
        with pytest.raises(UserError, match=words):
            coco.read_annotations(path)


def test_script_keeps_lists_made_otherwise(root):
    def run(*options):
        command = [sys.executable, ROOT / "scripts" / "prepare_coco.py", "--coco", root, *options]
        return subprocess.run(command, capture_output=True, text=True)

    first = run()
    assert first.returncode == 0, first.stderr
    assert "3 queries of 6 images (seed 0, area filter published); 3 cut-outs written, 0 were there" in first.stdout
    assert "0 cut-outs written, 3 were there" in run().stdout
    other = run("--seed", "1")
    assert other.returncode == 2
    assert "--overwrite" in other.stderr
    assert "3 cut-outs written" in run("--seed", "1", "--overwrite").stdout
    (root / "coco_eval.json").unlink()
    assert "something else" in run("--seed", "1").stderr


INSTANCES = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}],
    "annotations": [
        {
            "image_id": 1, "category_id": 2, "area": 50.0, "bbox": [2, 2, 10, 10],
            "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]],
        }
    ],
    "categories": [{"id": 2, "name": "cup"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images", 0, "file_name"), "../x.jpg", "is '../x.jpg', a file name inside the folder"),
        (("images", 0, "width"), None, "images[0].width is None, a whole number"),
        (("annotations", 0, "category_id"), 7, "annotations[0] has no known category"),
        (("annotations", 0, "bbox"), [1, 2, 3], "no box of four numbers"),
        (("annotations", 0, "area"), float("nan"), "annotations[0].area is nan"),
        (("annotations", 0, "segmentation"), [[1e308, 0, 1, 1, 5, 5]], "a.jpg: its segmentation is no mask"),
        (("annotations", 0, "segmentation"), {"size": [20, 30]}, "a.jpg: its segmentation is no mask"),
        (("annotations", 0, "segmentation"), [["x"] * 6], "a.jpg: its segmentation is no mask"),
    ],
)
def test_annotations_that_are_none_are_named(tmp_path, place, value, message):
    content = json.loads(json.dumps(INSTANCES))
    *path, last = place
    holder = content
    for step in path:
        holder = holder[step]
    holder[last] = value
    (tmp_path / "i.json").write_text(json.dumps(content))
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "val2017/a.jpg")
    with pytest.raises(UserError) as caught:
        coco.prepare(tmp_path, coco.draw_queries(coco.read_annotations(tmp_path / "i.json"), coco.CocoOptions()))
    assert message in str(caught.value)


def test_an_image_that_cannot_be_cut_out_is_named(tmp_path):
    (tmp_path / "i.json").write_text(json.dumps(INSTANCES))
    queries = coco.draw_queries(coco.read_annotations(tmp_path / "i.json"), coco.CocoOptions())
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017/a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"val2017/a\.jpg: not an image that can be cut out"):
        coco.prepare(tmp_path, queries)
