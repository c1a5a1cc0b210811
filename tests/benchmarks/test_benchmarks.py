"""Benchmark files: every layout met in the wild gives the same groups; variants; errors that say what to do."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from context_i2w.benchmarks import BENCHMARKS, genecis
from context_i2w.benchmarks.base import check_images_exist
from context_i2w.benchmarks.circo import CIRCOOptions
from context_i2w.benchmarks.cirr import CIRROptions
from context_i2w.benchmarks.coco import COCOOptions
from context_i2w.benchmarks.fashioniq import FashionIQOptions, image_files
from context_i2w.benchmarks.genecis import GeneCISOptions
from context_i2w.errors import UserError
from context_i2w.model.images import target_pad
from context_i2w.model.prompts import readable
from context_i2w.ranking.exact import Ranking


def load(name, root, options=None):
    benchmark = BENCHMARKS[name].load(root, options)
    check_images_exist(benchmark)
    return benchmark


def relative(source, root):
    return Path(source.path).name, source.box, source.view


def content(benchmark, root):
    """All that a group holds, its files by their names alone."""
    return [
        {
            "name": group.name,
            "gallery": [relative(source, root) for source in group.gallery],
            "references": [relative(source, root) for source in group.references],
            "names": [name.lower() for name in group.gallery_names],
            "ids": list(group.query_ids),
            "prompts": list(group.prompts),
            "texts": list(group.texts),
            "positives": [tuple(row) for row in group.positives],
        }
        for group in benchmark.groups
    ]


@pytest.fixture
def root(tmp_path, golden_data):
    return Path(shutil.copytree(golden_data, tmp_path / "data"))


def as_official_cirr(root):
    """The data set's own repository: images under img_raw/."""
    (root / "cirr").rename(root / "CIRR")
    (root / "CIRR" / "img_raw").mkdir()
    for folder in ("dev", "test1"):
        (root / "CIRR" / folder).rename(root / "CIRR" / "img_raw" / folder)


def as_nested_cirr(root):
    """CLIP4Cir's and SEARLE's: annotations in a folder of their own."""
    (root / "cirr").rename(root / "cirr_dataset")
    (root / "cirr_dataset" / "cirr").mkdir()
    for folder in ("captions", "image_splits"):
        (root / "cirr_dataset" / folder).rename(root / "cirr_dataset" / "cirr" / folder)


@pytest.mark.parametrize("layout", [as_official_cirr, as_nested_cirr])
@pytest.mark.parametrize("name", ["cirr", "cirr_test"])
def test_cirr_layouts(root, layout, name, golden_data):
    expected = content(load(name, golden_data), golden_data)
    layout(root)
    assert content(load(name, root), root) == expected


def test_fashion_layouts(root, golden_data):
    expected = content(load("fashion", golden_data), golden_data)
    (root / "fashion-iq").rename(root / "fashionIQ")
    (root / "fashionIQ" / "json").rename(root / "fashionIQ" / "captions")
    assert content(load("fashion", root), root) == expected


def test_fashion_images_of_any_suffix_are_found(root, golden_data):
    folder = root / "fashion-iq" / "images"
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(path.with_suffix((".jpg", ".JPG", ".jpeg", ".PNG")[number % 4]))
    groups = load("fashion", root).groups
    assert [g.gallery_names for g in groups] == [g.gallery_names for g in load("fashion", golden_data).groups]


def test_imagenet_folders_give_the_sets_of_the_lists(root):
    listed = load("imgnet", root).groups
    for name in ("imgnet_real_query.txt", "imgnet_targets.txt"):
        (root / "imgnet" / name).unlink()
    derived = load("imgnet", root).groups
    for ours, theirs in zip(derived, listed, strict=True):
        assert set(ours.gallery_names) == set(theirs.gallery_names)
        assert {q: named(ours, p) for q, p in zip(ours.query_ids, ours.positives)} == {
            q: named(theirs, p) for q, p in zip(theirs.query_ids, theirs.positives)
        }


def named(group, indices):
    return {group.gallery_names[index] for index in indices}


def test_imagenet_ceilings_are_in_the_protocol(golden_data):
    protocol = load("imgnet", golden_data).protocol
    assert set(protocol["ceiling"]) == {"cartoon", "origami", "toy", "sculpture"}
    assert protocol["ceiling"]["origami"]["R@10"] == pytest.approx(42.5, abs=0.001)  # 17 of 40 have a positive


@pytest.mark.parametrize(
    ("name", "prompt", "text"),
    [
        ("cirr", "a photo of <||> , Put dog on the grass.", "Put dog on the grass."),
        ("fashion", "a photo of <||> , is solid black and is longer , lace and more formal", None),
        ("coco", "a photo of <||> and cat and bowl and bottle and tv", "a photo of cat and bowl and bottle and tv"),
        ("imgnet", "a cartoon of <||>", "a cartoon of "),
    ],
)
def test_prompts(name, prompt, text, golden_data):
    group = load(name, golden_data).groups[0]
    plain = [re.sub("<.*?>", "<||>", readable(shown).replace("[*]", "<||>")) for shown in group.prompts[0]]
    assert plain == [prompt]
    assert group.texts[0] == (group.prompts[0] if text is None else (text,))


def test_cirr_that_prompt(golden_data):
    group = load("cirr", golden_data, CIRROptions(prompt="that")).groups[0]
    assert readable(group.prompts[0][0]) == "a photo of [*] that Put dog on the grass."


def test_fashion_variants(golden_data):
    def prompts(**options):
        return load("fashion", golden_data, FashionIQOptions(source="dress", **options)).groups[0]

    first, second = "is longer , lace and more formal", "is solid black"
    forward, backward = (f"a photo of [*] , {a} and {b}" for a, b in ((first, second), (second, first)))
    shown = {
        captions: tuple(readable(text) for text in prompts(captions=captions).prompts[0])
        for captions in ("reversed", "forward", "both-orders")
    }
    assert shown == {"reversed": (backward,), "forward": (forward,), "both-orders": (forward, backward)}
    pairs = prompts(gallery="val-pairs")
    entries = json.loads((golden_data / "fashion-iq/json/cap.dress.val.json").read_text())
    assert set(pairs.gallery_names) == {entry[key] for entry in entries for key in ("candidate", "target")}
    assert [pairs.gallery_names[p[0]] for p in pairs.positives] == [entry["target"] for entry in entries]
    assert {source.view for source in prompts(image="pad").gallery} == {"pad"}


def test_coco_without_other_classes(golden_data):
    def texts(ending):
        group = load("coco", golden_data, COCOOptions(ending=ending)).groups[0]
        row = group.query_ids.index("000000014713.jpg")
        return readable(group.prompts[row][0]), group.texts[row][0]

    assert texts("paper") == ("a photo of [*] and horse and ", "a photo of horse and ")
    assert texts("clean") == ("a photo of [*] and horse", "a photo of horse")


def test_coco_box_is_truncated_and_squashed(golden_data):
    source = load("coco", golden_data).groups[0].references[0]
    assert (source.box, source.view) == ((51, 50, 110, 121), "square")


def test_captions_that_spell_special_tokens_stay_text(root):
    path = root / "cirr" / "captions" / "cap.rc2.val.json"
    entries = json.loads(path.read_text())
    entries[0]["caption"] = "{caption} [*] <|replace|> &lt;|replace|&gt; <|endoftext|>"
    path.write_text(json.dumps(entries))
    from context_i2w.model.prompts import PLACEHOLDER_ID, Tokenizer

    ids = Tokenizer()(load("cirr", root).groups[0].prompts[0])
    assert (ids == PLACEHOLDER_ID).sum() == 1


def test_cirr_reference_outside_the_gallery_is_no_crash(root):
    folder = root / "cirr"
    split = json.loads((folder / "image_splits/split.rc2.val.json").read_text())
    entry = json.loads((folder / "captions/cap.rc2.val.json").read_text())[0]
    del split[entry["reference"]]
    (folder / "image_splits/split.rc2.val.json").write_text(json.dumps(split))
    (folder / "captions/cap.rc2.val.json").write_text(json.dumps([entry]))
    group = load("cirr", root).groups[0]
    assert group.excluded.tolist() == [-1]
    assert Path(group.references[0].path).name == f"{entry['reference']}.png"


def test_missing_images_are_all_listed_in_one_error(root):
    paths = sorted((root / "cirr" / "dev").iterdir())[:3]
    for path in paths:
        path.unlink()
    with pytest.raises(UserError) as caught:
        load("cirr", root)
    assert "3 of 90 images are missing" in str(caught.value)
    assert all(str(path) in str(caught.value) for path in paths)
    assert "python scripts/check_data.py" in str(caught.value)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_folders_say_what_to_do(tmp_path, name):
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"data/README.md and run `python scripts/check_data.py`"):
            BENCHMARKS[name].load(root, None)


@pytest.mark.parametrize(
    ("name", "file", "broken", "message"),
    [
        ("cirr", "cirr/captions/cap.rc2.val.json", "[{", "not JSON"),
        ("cirr", "cirr/captions/cap.rc2.val.json", '[{"pairid": 1}]', "[0] has no 'reference'"),
        ("cirr", "cirr/image_splits/split.rc2.val.json", '{"a": "./dev/a.png"}', "is not in the gallery"),
        ("fashion", "fashion-iq/json/cap.dress.val.json", "[]", "no entries"),
        ("fashion", "fashion-iq/image_splits/split.dress.val.json", "{}", "a list is expected"),
        ("coco", "coco/coco_eval.csv", "id,classes\n", "no column query_regions, query_class"),
        ("coco", "coco/coco_eval.csv", "id,query_regions,query_class,classes\na,1;2;3,b,c\n", "is not x1;y1;x2;y2"),
        ("imgnet", "imgnet/imgnet_targets.txt", "imgnet/a.jpg\n", "`path label` is expected"),
        ("imgnet", "imgnet/imgnet_targets.txt", "imgnet/a.jpg ²\n", "`path label` is expected"),
        ("imgnet", "imgnet/imgnet_targets.txt", "../a.jpg 1\n", "`path label` is expected"),
        ("imgnet", "imgnet/imgnet_targets.txt", b"caf\xe9.jpg 1\n", "can't be read"),
        ("cirr", "cirr/image_splits/split.rc2.val.json", '{"a": 3}', "a is 3, a file name inside the folder"),
        ("cirr", "cirr/image_splits/split.rc2.val.json", '{"a": "../x.jpg"}', "a is '../x.jpg', a file name inside"),
        ("cirr", "cirr/image_splits/split.rc2.val.json", "[" * 200_000, "not JSON"),
        ("fashion", "fashion-iq/image_splits/split.dress.val.json", '["/x"]', "[0] is '/x', a file name inside"),
        (
            "coco",
            "coco/coco_eval.csv",
            b"id,query_regions,query_class,classes\n\xe9,1;2;3;4,b,c\n",
            "line 2: not UTF-8",
        ),
        (
            "coco",
            "coco/coco_eval.csv",
            "id,query_regions,query_class,classes\n../x.jpg,1;2;3;4,b,c\n",
            "is no file name",
        ),
        ("coco", "coco/coco_eval.csv", "id,query_regions,query_class,classes\na,0;0;1e9;9,b,c\n", "is not x1;y1;x2;y2"),
    ],
)
def test_damaged_files_name_the_place(root, name, file, broken, message):
    (root / file).write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    with pytest.raises(UserError) as caught:
        load(name, root)
    assert message in str(caught.value)
    assert str(root / file) in str(caught.value) or name == "cirr"
    assert "\n" not in str(caught.value)


def test_unknown_variants_are_refused():
    with pytest.raises(UserError, match="captions 'backwards': one of reversed, forward, both-orders"):
        FashionIQOptions(captions="backwards")


def small_images(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (20, 10), "red").save(folder / name)


@pytest.fixture
def circo_root(tmp_path):
    ids = [11, 22, 33, 44]
    folder = tmp_path / "CIRCO"
    small_images(folder / "COCO2017_unlabeled" / "unlabeled2017", [f"{i:012d}.jpg" for i in ids])
    (folder / "annotations").mkdir()
    info = folder / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    info.parent.mkdir()
    info.write_text(json.dumps({"images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids]}))
    query = {"reference_img_id": 11, "relative_caption": "is blue", "shared_concept": "a car", "id": 0}
    answers = {"target_img_id": 33, "gt_img_ids": [33, 44], "semantic_aspects": ["colour"]}
    (folder / "annotations" / "val.json").write_text(json.dumps([query | answers]))
    (folder / "annotations" / "test.json").write_text(json.dumps([query]))
    return tmp_path


def ranking_of(group, order):
    """A ranking whose single query puts the gallery in the given order."""
    gallery = torch.zeros(len(group.gallery), 2)
    for place, index in enumerate(order):
        angle = torch.tensor(0.3 * place)
        gallery[index] = torch.stack([angle.cos(), angle.sin()])
    return Ranking(torch.tensor([[1.0, 0.0]]), gallery, group.excluded, group.candidates)


def test_circo(circo_root):
    group = load("circo", circo_root).groups[0]
    metrics = group.score(ranking_of(group, [0, 2, 1, 3]))
    expected = 100 * (1 / 2 + 2 / 4) / 2
    assert metrics["mAP@5"] == pytest.approx(expected)
    assert metrics["mAP@10 colour"] == pytest.approx(expected)
    assert metrics["R@5"] == 100.0


def test_circo_submission(circo_root):
    benchmark = load("circo", circo_root, CIRCOOptions(split="test"))
    ranking = ranking_of(benchmark.groups[0], [0, 2, 1, 3])
    assert benchmark.submission(ranking) == {"test": {"0": [11, 33, 22, 44]}}
    assert benchmark.groups[0].score(ranking) == {}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("annotations/val.json", {"gt_img_ids": []}, "id 0: gt_img_ids is empty"),
        ("annotations/val.json", {"gt_img_ids": ["33"]}, "[0].gt_img_ids[0] is '33', a whole number"),
        ("annotations/val.json", {"target_img_id": 55}, "id 0: image '55' is not in the gallery"),
        ("COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"images": [{"name": "x"}]}, "has no 'id'"),
    ],
)
def test_circo_entries_are_checked(circo_root, file, change, message):
    path = circo_root / "CIRCO" / file
    content = json.loads(path.read_text())
    (content[0] if isinstance(content, list) else content).update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        load("circo", circo_root)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("inner", ["images", "nlvr2", "img_raw"])
def test_cirr_images_are_found_where_people_put_them(root, inner):
    (root / "cirr" / inner).mkdir()
    (root / "cirr/dev").rename(root / "cirr" / inner / "dev")
    check_images_exist(load("cirr", root))


def test_webp_and_hidden_files(tmp_path):
    for name in ("a.webp", "._a.png", "b.PNG", "b.webp"):
        (tmp_path / name).touch()
    assert {stem: Path(path).name for stem, path in image_files(tmp_path).items()} == {"a": "a.webp", "b": "b.PNG"}


def test_the_object_tasks_need_no_attribute_lists(tmp_path):
    small_images(tmp_path / "coco" / "val2017", [f"{i:012d}.jpg" for i in range(5)])
    (tmp_path / "genecis").mkdir()
    image = [{"val_image_id": i} for i in range(5)]
    for task in ("focus_object", "change_object"):
        entry = {"condition": "wall", "reference": image[0], "target": image[3], "gallery": image[1:3]}
        (tmp_path / "genecis" / f"{task}.json").write_text(json.dumps([entry]))
    groups = load("genecis", tmp_path, GeneCISOptions(tasks="object")).groups
    assert [group.name for group in groups] == ["focus_object", "change_object"]
    with pytest.raises(UserError, match=r"no GeneCIS focus_attribute.*--genecis-tasks object does without"):
        load("genecis", tmp_path)


@pytest.mark.parametrize("box", [[1, 2, 3], [0, 0, 1e9, 3], [0, 0, -1, 3], ["1", 2, 3, 4], [float("nan"), 1, 1, 1]])
def test_boxes_that_nobody_means(tmp_path, box):
    small_images(tmp_path / "genecis" / "VG_100K", ["7.jpg"])
    part = {"image_id": 7, "instance_bbox": box}
    entry = {"condition": "red", "reference": part, "target": part, "gallery": []}
    (tmp_path / "genecis" / "focus_attribute.json").write_text(json.dumps([entry]))
    with pytest.raises(UserError, match=r"focus_attribute\.json: .*(id or box|instance_bbox)"):
        load("genecis", tmp_path, GeneCISOptions(tasks="attribute"))


def test_genecis(tmp_path):
    small_images(tmp_path / "coco" / "val2017", [f"{i:012d}.jpg" for i in range(5)])
    small_images(tmp_path / "genecis" / "VG_100K", ["7.jpg", "8.jpg"])
    small_images(tmp_path / "genecis" / "VG_100K_2", ["9.jpg"])
    image = [{"val_image_id": i} for i in range(5)]
    part = [{"image_id": i, "instance_bbox": [4, 2, 10, 6]} for i in (7, 8, 9)]
    for task in ("focus_object", "change_object"):
        entry = {"condition": "wall", "reference": image[0], "target": image[3], "gallery": image[1:3]}
        (tmp_path / "genecis" / f"{task}.json").write_text(json.dumps([entry]))
    for task in ("focus_attribute", "change_attribute"):
        entry = {"condition": "red", "reference": part[0], "target": part[2], "gallery": part[1:2]}
        (tmp_path / "genecis" / f"{task}.json").write_text(json.dumps([entry]))
    groups = {group.name: group for group in load("genecis", tmp_path).groups}
    focus = groups["focus_object"]
    assert focus.candidates == [[0, 1, 2]]
    assert focus.score(ranking_of(focus, [0, 2, 1])) == {"R@1": 0.0, "R@2": 100.0, "R@3": 100.0}
    source = groups["focus_attribute"].references[0]
    assert (source.box, source.view) == (
        (0, 0, 17, 10),
        "black-square",
    )  # 1.7 of 10 x 6 from a corner that the border stops


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ([300, 200, 60, 40], (258, 172, 360, 240)),  # ends where the box does
        ([10, 200, 60, 40], (0, 172, 102, 240)),  # stopped at the left border, 1.7 boxes from there
        ([560, 420, 80, 60], (504, 378, 640, 480)),
    ],
)
def test_genecis_parts_are_the_published_ones(tmp_path, box, part):
    """As the published evaluation cuts them, in an image of 640 x 480."""
    (tmp_path / "VG_100K").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "VG_100K" / "1.jpg")
    source = genecis._genome(tmp_path, tmp_path)({"image_id": 1, "instance_bbox": box})
    x1, y1, x2, y2 = source.box
    assert (x1, y1, min(x2, 640), min(y2, 480)) == part
    with pytest.raises((ValueError, OverflowError)):
        genecis._genome(tmp_path, tmp_path)({"image_id": 1, "instance_bbox": [1, 2, float("inf"), 3]})


@pytest.mark.parametrize(
    ("size", "at"), [((100, 60), (0, 20)), ((101, 60), (0, 20)), ((33, 32), (0, 0)), ((5, 8), (1, 0))]
)
def test_genecis_squares_are_whole(size, at):
    """Pasted at (side - length) // 2: the odd pixel lies right or below."""
    padded = target_pad(Image.new("RGB", size, "white"), 1.0)
    assert padded.size == (max(size), max(size))
    assert padded.getbbox() == (*at, at[0] + size[0], at[1] + size[1])
