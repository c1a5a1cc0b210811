"""The toy world: the same bytes for the same seed, genuine file formats, splits that share nothing."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from context_i2w.errors import UserError
from context_i2w.model.prompts import PLACEHOLDER, PLACEHOLDER_ID, Tokenizer, mark_placeholders
from context_i2w.preparation.coco_masks import segmentation_mask
from context_i2w.toy_world import Sizes, make_toy_world
from context_i2w.toy_world.captions import make_caption, make_masked_pair
from context_i2w.toy_world.drawing import SIZE, draw, draw_with_masks
from context_i2w.toy_world.outlines import outlines
from context_i2w.toy_world.scenes import random_scene, stream_key
from context_i2w.toy_world.vocabulary import CONVERTED, DOMAINS, KINDS
from toy_clip.prompt_bank import banks
from toy_clip.tiny_clip import WordTable, words

MINI = Sizes.mini()
COPIES = ("test", "dev")


@pytest.fixture(scope="module")
def world(mini_world) -> Path:
    return mini_world


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_for_any_number_of_processes(tmp_path):
    one, two = (make_toy_world(tmp_path / str(workers), sizes=MINI, workers=workers) for workers in (1, 2))
    assert digests(one) == digests(two)


def test_second_call_draws_nothing(world):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert make_toy_world(world, sizes=MINI) == world
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before


def test_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("context_i2w.toy_world.world.write_cirr", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_toy_world(tmp_path / "toy", sizes=MINI, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_replaces_another_world_by_other_pictures_but_nothing_else(world, tmp_path):
    root = tmp_path / "toy"
    root.mkdir()
    (root / "toy_world.json").write_text('{"seed": 0}')
    make_toy_world(root, seed=1, sizes=MINI, workers=1)
    assert json.loads((root / "toy_world.json").read_text())["seed"] == 1
    pictures = {digest for name, digest in digests(world).items() if name.endswith(".png")}
    assert not pictures & set(digests(root).values())
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photo.png").write_bytes(b"")
    with pytest.raises(UserError, match="no toy world"):
        make_toy_world(mine, sizes=MINI)
    assert (mine / "photo.png").exists()


def test_no_picture_is_in_two_places(world):
    """Pairs, the benchmarks and their two copies share no drawing, nor with what CLIP is pretrained on."""
    pictures = [path for path in world.rglob("*.png") if path.parent.name != "val2017_masked"]
    found = [np.asarray(Image.open(path)).tobytes() for path in pictures]
    assert len(set(found)) == len(found)
    key = stream_key(0, "pretraining")
    assert not set(found) & {draw(random_scene(key, number)).tobytes() for number in range(200)}


def test_pairs_are_a_list_with_masked_captions(world):
    for name, count in (
        ("Train_GCC-training_output.csv", MINI.training_pairs),
        ("Validation_GCC-1.1.0-Validation_output.csv", MINI.validation_pairs),
    ):
        with (world / "cc" / name).open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert len(rows) == count
        assert list(rows[0])[:3] == ["filepath", "title", "masked_title"]
        for row in rows:
            assert Image.open(world / "cc" / row["filepath"]).size == (SIZE, SIZE)
            assert_one_noun_masked(row["title"], row["masked_title"])
            assert_one_noun_masked(row["title"], row["masked_head_noun"])
            assert 1 <= row["masked_all_nouns"].count(PLACEHOLDER) >= row["masked_subject"].count(PLACEHOLDER) == 1
            assert row["masked_one"].count(PLACEHOLDER) == 1


@given(st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_a_caption_that_names_one_thing_names_no_other(seed):
    scene = random_scene((seed, 0), 0)
    assert len(make_caption(scene, alone=True).nouns) == 1


@given(st.integers(0, 2**31), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_masked_caption_differs_in_one_noun(seed, number):
    scene = random_scene((seed, 0), 0)
    title, masked = make_masked_pair(scene, number)
    assert_one_noun_masked(title, masked, scene.kinds())


def assert_one_noun_masked(title: str, masked: str, kinds: tuple[str, ...] = KINDS) -> None:
    pairs = list(zip(title.split(), masked.split(), strict=True))
    changed = [(word, mask) for word, mask in pairs if word != mask]
    assert len(changed) == 1
    assert changed[0][0] in kinds
    assert changed[0][1] == PLACEHOLDER


def test_captions_are_as_bare_as_web_text():
    scenes = [random_scene((5, 5), number) for number in range(3000)]
    several = [scene for scene in scenes if len(scene.things) > 1]
    one_named = [len(make_caption(scene).nouns) == 1 for scene in several]
    assert np.mean(one_named) == pytest.approx(0.25, abs=0.04)
    attributes = {"red", "blue", "striped", "dotted", "long", "short", "checked", "plain", "green", "yellow"}
    attributes |= {"orange", "purple", "pink", "brown"}
    bare = [not attributes & set(make_caption(scene).text().split()) for scene in scenes]
    assert 0.2 < np.mean(bare) < 0.5


def test_cirr_format(world):
    for copy in COPIES:
        folder = world / copy / "cirr"
        captions = json.loads((folder / "captions" / "cap.rc2.val.json").read_text())
        split = json.loads((folder / "image_splits" / "split.rc2.val.json").read_text())
        assert len(captions) == 5 * MINI.cirr_sets
        assert len({entry["pairid"] for entry in captions}) == len(captions)
        assert all((folder / path).is_file() for path in split.values())
        for entry in captions:
            members = entry["img_set"]["members"]
            assert len(set(members)) == 6
            assert set(members) <= set(split)
            assert members[entry["img_set"]["reference_rank"]] == entry["reference"] != entry["target_hard"]
            assert members[entry["img_set"]["target_rank"]] == entry["target_hard"]
            assert entry["target_soft"] == {entry["target_hard"]: 1.0}


def test_fashioniq_format(world):
    for garment in ("dress", "shirt", "toptee"):
        folder = world / "test" / "fashion-iq"
        entries = json.loads((folder / "captions" / f"cap.{garment}.val.json").read_text())
        split = json.loads((folder / "image_splits" / f"split.{garment}.val.json").read_text())
        assert len(entries) == MINI.fashion_queries
        assert len(set(split)) == MINI.fashion_gallery
        assert all((folder / "images" / f"{name}.png").is_file() for name in split)
        for entry in entries:
            assert {entry["target"], entry["candidate"]} <= set(split)
            assert len(entry["captions"]) == 2


def test_imagenet_lists_and_folders_agree(world):
    root = world / "test"
    queries, targets = (
        dict(line.rsplit(" ", 1) for line in (root / "imgnet" / name).read_text().splitlines())
        for name in ("imgnet_real_query.txt", "imgnet_targets.txt")
    )
    assert len(queries) == MINI.imagenet_queries
    assert set(targets) == {str(path.relative_to(root)) for path in (root / "imgnet").rglob("*.png")}
    classes = sorted({name.split("/")[2] for name in targets})
    assert len(classes) == len(KINDS)
    for name, label in targets.items():
        domain = 6 if name in queries else CONVERTED.index(Path(name).name.split("_")[0])
        assert int(label) == 1000 * domain + classes.index(name.split("/")[2])
    assert all(int(label) == int(targets[name]) % 1000 for name, label in queries.items())


def test_coco_masks_boxes_and_list_agree(world):
    folder = world / "test" / "coco"
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    for annotation in content["annotations"]:
        mask = segmentation_mask(annotation["segmentation"], SIZE, SIZE)
        x, y, width, height = annotation["bbox"]
        assert mask.sum() == annotation["area"] == mask[y : y + height, x : x + width].sum()
        assert mask[y].any()
        assert mask[y + height - 1].any()
        assert mask[:, x].any()
        assert mask[:, x + width - 1].any()
    with (folder / "coco_eval.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [image["file_name"] for image in content["images"]]
    for row in rows:
        whole, cut = (np.asarray(Image.open(folder / name / row["id"])) for name in ("val2017", "val2017_masked"))
        x1, y1, x2, y2 = map(int, row["query_regions"].strip().split(";"))
        outside = np.ones((SIZE, SIZE), bool)
        outside[y1:y2, x1:x2] = False
        assert (cut[outside] == 255).all()
        assert ((cut == whole).all(-1) | (cut == 255).all(-1)).all()
        assert row["classes"]
        assert row["query_class"] not in row["classes"].split(";")


@given(arrays(bool, (7, 9)))
def test_outlines_enclose_the_mask(mask):
    """Rastered again they give the mask with its holes filled."""
    polygons = outlines(mask)
    covered = segmentation_mask(polygons, 7, 9)
    assert (covered | ~mask).all()
    assert (covered == filled(mask)).all()


def filled(mask: np.ndarray) -> np.ndarray:
    """The mask and everything that it cuts off from the outside, by flooding from a frame around it."""
    free = np.pad(~mask, 1, constant_values=True)
    outside = np.zeros_like(free)
    outside[0, 0] = True
    while True:
        near = np.pad(outside, 1)
        # Water passes corners too, as regions that touch at one have separate outlines.
        shifts = [near[y : y + free.shape[0], x : x + free.shape[1]] for y in range(3) for x in range(3)]
        grown = np.logical_or.reduce(shifts) & free
        if (grown == outside).all():
            return ~outside[1:-1, 1:-1]
        outside = grown


def test_masks_cover_what_is_shown():
    scene = next(s for s in (random_scene((2, 2), n) for n in range(100)) if len(s.things) == 3)
    image, masks = draw_with_masks(scene)
    assert image.size == (SIZE, SIZE)
    assert len(masks) == 3
    assert all(mask.sum() > 0.03 * SIZE * SIZE for mask in masks)
    assert not (masks[0] & masks[1]).any()


def test_each_domain_looks_different():
    scene = random_scene((1, 1), 0)
    assert len({draw(scene.changed(domain=domain)).tobytes() for domain in DOMAINS}) == len(DOMAINS)


def test_word_table_has_exactly_the_words_of_captions():
    tokenizer, table = Tokenizer(), WordTable()
    scenes = [random_scene((3, 3), number) for number in range(3000)]
    texts = [make_caption(scene).text() for scene in scenes]
    assert {word for text in texts for word in text.split()} == set(words())
    prompts = [mark_placeholders(f"a cartoon of {PLACEHOLDER}")] + [
        p for bank in banks() for p in bank.prompts.values()
    ]
    rows = table.rows(tokenizer([*texts[:50], *prompts]))
    assert (rows.argmax(1) == tokenizer([*texts[:50], *prompts]).argmax(1)).all()
    assert PLACEHOLDER_ID in table.ids.tolist()
    with pytest.raises(ValueError, match="without a row"):
        table.rows(tokenizer(["a photo of a zebra"]))


def test_benchmark_descriptions_use_known_words_only(world):
    known = set(words())
    for copy in COPIES:
        cirr = json.loads((world / copy / "cirr" / "captions" / "cap.rc2.val.json").read_text())
        said = [entry["caption"] for entry in cirr]
        for path in (world / copy / "fashion-iq" / "captions").iterdir():
            said += [caption for entry in json.loads(path.read_text()) for caption in entry["captions"]]
        assert {word for text in said for word in text.split()} <= known


def test_bank_labels_are_true_of_the_scene():
    for number in range(100):
        scene = random_scene((4, 4), number)
        kinds = next(bank for bank in banks() if bank.name == "kind")
        named = [list(kinds.prompts)[label] for label in kinds.labels(scene)]
        assert named == [(scene.domain, kind) for kind in scene.kinds()]
