"""Evaluation: features equal to the published ones; one vision pass per image; the same table however it is run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from conftest import pillow_13
from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.fashioniq import FashionIQOptions
from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import BASELINES, evaluate, query_features, rank
from context_i2w.evaluation.features import EncodingOptions, encode, encode_texts
from context_i2w.model.images import ImageSource
from context_i2w.model.mappers import Pic2Word
from context_i2w.model.queries import RECOMMENDED
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import recall_and_precision_at, recall_at

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5
SMALL = json.loads((GOLDEN / "eval_small.json").read_text())


@pytest.fixture(scope="module")
def small():
    return load_file(GOLDEN / "eval_small.safetensors")


@pytest.fixture(scope="module")
def published():
    return load_file(GOLDEN / "benchmarks" / "expected.safetensors")


def composed(clip, mapper, images, ids):
    condition = clip.encode_text(ids)
    with torch.no_grad():
        words = mapper(condition, clip.encode_image(images))
        return condition, words, clip.compose(ids, words)


def difference(found, expected):
    return (found - expected).abs().max().item()


@pytest.mark.parametrize("name", ["cirr", "fashion", "coco"])
def test_golden_features(golden_clip, golden_mapper, small, name):
    ids = small[f"{name}.token_ids"].long()
    _, _, feature = composed(golden_clip, golden_mapper, small[f"{name}.query_images"], ids)
    image = normalize(golden_clip.encode_image(small[f"{name}.query_images"]).embedding, dim=-1)
    text_ids = {"cirr": "cirr.caption_token_ids", "coco": "coco.text_full_token_ids"}
    text_ids = small[text_ids.get(name, f"{name}.token_ids")].long()
    text = normalize(encode_texts(golden_clip, text_ids, 2), dim=-1)
    rows = {"composed": normalize(feature, dim=-1), "image": image, "text": text}
    rows["mixture"] = normalize(image + text, dim=-1)
    for row, found in rows.items():
        assert difference(found, small[f"{name}.feat.{row}"]) <= TOLERANCE
    gallery = normalize(golden_clip.encode_image(small[f"{name}.gallery_images"]).embedding, dim=-1)
    assert difference(gallery, small[f"{name}.gallery"]) <= TOLERANCE


def test_golden_stages(golden_clip, golden_mapper, small):
    ids = small["cirr.token_ids"].long()
    stages = composed(golden_clip, golden_mapper, small["cirr.query_images"], ids)
    for found, name in zip(stages, ("text_cls", "pseudo_words", "composed_unnormalised")):
        assert difference(found, small[f"cirr.stage.{name}"]) <= TOLERANCE


@pytest.mark.parametrize("domain", range(4))
def test_golden_imagenet_features(golden_clip, golden_mapper, small, domain):
    ids = small["imgnet.token_ids"].long()[[domain] * 5]
    _, _, feature = composed(golden_clip, golden_mapper, small["imgnet.query_images"], ids)
    assert difference(normalize(feature, dim=-1), small[f"imgnet.feat.composed.domain{domain}"]) <= TOLERANCE


ROWS = ("composed", "image", "text", "mixture")


@pytest.mark.parametrize("row", ROWS)
def test_golden_small_metrics(small, row):
    names = SMALL["cirr"]["gallery"]
    excluded = torch.tensor([names.index(name) for name in SMALL["cirr"]["reference"]])
    targets = torch.tensor([names.index(name) for name in SMALL["cirr"]["target"]])
    ranks = Ranking(small[f"cirr.feat.{row}"], small["cirr.gallery"], excluded).ranks(targets)
    expected = SMALL["metrics"][f"cirr.{row}"]
    assert recall_at(ranks, (1, 5, 10), "recall_R@{}") == pytest.approx(
        {f"recall_R@{k}": expected[f"recall_R@{k}"] for k in (1, 5, 10)}, abs=1e-4
    )
    names = SMALL["fashion"]["gallery"]
    targets = torch.tensor([names.index(name) for name in SMALL["fashion"]["answer"]])
    ranks = Ranking(small[f"fashion.feat.{row}"], small["fashion.gallery"]).ranks(targets)
    expected = SMALL["metrics"][f"fashion.{row}"]
    assert recall_at(ranks, (1, 5, 10, 50, 100)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("domain", range(4))
@pytest.mark.parametrize("row", ROWS)
def test_golden_small_imagenet_metrics(small, row, domain):
    queries = small[f"imgnet.feat.{row}.domain{0 if row == 'image' else domain}"]
    labels = small["imgnet.gallery_labels"]
    wanted = small["imgnet.query_labels"] + 1000 * domain
    hits = labels[Ranking(queries, small["imgnet.gallery"]).top(200)] == wanted[:, None]
    positives = (labels[None] == wanted[:, None]).sum(1)
    found = recall_and_precision_at(hits, positives, (1, 5, 10, 50, 100, 200), len(labels))
    expected = SMALL["metrics"][f"imgnet.{row}.domain{domain}"]
    assert found == pytest.approx(
        {name.removeprefix("Real2Sketch_"): 100 * value for name, value in expected.items()}, abs=1e-4
    )


OF_TALL_PICTURES = [("cirr", "cirr"), ("cirr_test", "cirr_test"), ("coco", "coco"), ("fashion", "fashion_")]


@pytest.mark.parametrize(
    ("mode", "prefix"), [*(pytest.param(*one, marks=pillow_13) for one in OF_TALL_PICTURES), ("imgnet", "imgnet")]
)
def test_whole_benchmark_features(golden_clip, golden_mapper, published, mode, prefix, golden_data):
    benchmark = BENCHMARKS[mode].load(golden_data, None)
    encoded = encode(benchmark, golden_clip, {"composed": golden_mapper}, EncodingOptions(workers=0))
    for group in benchmark.groups:
        name = prefix + (group.name if mode == "fashion" else "")
        query = f"{name}.composed.{group.name}" if mode == "imgnet" else f"{name}.composed"
        assert difference(query_features(group, "composed", encoded), published[query]) <= TOLERANCE
        assert difference(rank(group, "composed", encoded).gallery, published[f"{name}.gallery"]) <= TOLERANCE


@pytest.fixture
def few(golden_mapper, golden_data):
    """FashionIQ's dresses with few queries, twice in two groups."""
    group = BENCHMARKS["fashion"].load(golden_data, FashionIQOptions(source="dress", captions="both-orders")).groups[0]
    count = 12
    group = replace(
        group,
        **{name: getattr(group, name)[:count] for name in ("references", "query_ids", "prompts", "texts")},
        positives=group.positives[:count],
        score=lambda ranking: recall_at(ranking.ranks(torch.arange(count)), (1, 10)),
    )
    benchmark = BENCHMARKS["fashion"].load(golden_data, FashionIQOptions(source="dress"))
    return replace(benchmark, groups=[group, replace(group, name="again")])


def test_each_distinct_image_passes_the_vision_tower_once(golden_clip, golden_mapper, few, monkeypatch):
    passed = []
    original = type(golden_clip).encode_image
    monkeypatch.setattr(
        type(golden_clip), "encode_image", lambda self, images: passed.append(len(images)) or original(self, images)
    )
    result = evaluate(few, golden_clip, {"a": golden_mapper, "b": golden_mapper}, EncodingOptions(7, workers=0))
    distinct = {source for group in few.groups for source in (*group.gallery, *group.references)}
    assert sum(passed) == len(distinct) == result.passes["images"]
    assert result.metrics["mean"]["a composed"] == result.metrics["dress"]["b composed"]
    rows = [f"{name} {method}" for name in "ab" for method in ("composed", RECOMMENDED)]
    assert list(result.metrics["dress"]) == [*BASELINES, *rows]


@pytest.mark.parametrize("kind", ["seeing", "blind"])
@pytest.mark.parametrize(
    ("method", "images", "texts", "compositions"),
    [
        # "G": gallery, "R": distinct references, "Q": distinct queries, "P": their prompts' texts
        ("image", "GR", "", {}),
        ("text", "G", "P", {}),
        ("image+text", "GR", "P", {}),
        ("image*text", "GR", "P", {}),
        ("slerp:0.8", "GR", "P", {}),
        ("composed", "GR", "", {"seeing": "Q", "blind": "Q"}),
        ("anchored:0.2", "GR", "", {"seeing": "Q", "blind": "Q"}),
        ("blended:0.5", "GR", "P", {"seeing": "Q", "blind": "Q"}),
        ("pdv:0.8:1:1", "GR", "", {"seeing": "QQ", "blind": "QR"}),
        ("pdv:0.8:1:1:plain", "GR", "", {"seeing": "QR", "blind": "QR"}),
    ],
)
def test_a_row_costs_what_it_reads(
    golden_clip, golden_mapper, few, method, images, texts, compositions, kind, monkeypatch
):
    """FashionIQ with both orders: the text row's texts are the conditions, so these two cost one pass."""
    passed = {"encode_image": 0, "encode_text": 0, "compose": 0}
    for name in passed:
        count(golden_clip, name, passed, monkeypatch)
    group = few.groups[0]
    sets = {
        "G": set(group.gallery),
        "R": set(group.references),
        "Q": {(s, p) for s, prompts in zip(group.references, group.prompts) for p in prompts},
        "P": {text for row in group.texts for text in row},
    }
    mapper = golden_mapper if kind == "seeing" else Pic2Word(golden_clip.sizes).eval()
    result = evaluate(few, golden_clip, {"composed": mapper}, EncodingOptions(7, workers=0), [method])
    sees = bool(compositions) and kind == "seeing"
    wanted = {
        "images": len(set().union(*(sets[name] for name in images))),
        "texts": len(sets["P"] if texts or sees else ()) + (sees and method.endswith("plain")),
        "compositions": sum(len(sets[name]) for name in compositions.get(kind, "")),
    }
    assert result.passes == wanted == dict(zip(wanted, passed.values(), strict=True))


def test_a_mapper_that_sees_no_description_costs_the_cirr_table_no_condition(golden_clip, golden_mapper, golden_data):
    """Published rows and the recommended one: the captions once, each composition once, whatever reads them."""
    benchmark = BENCHMARKS["cirr"].load(golden_data, None)
    captions = len({text for group in benchmark.groups for row in group.texts for text in row})
    queries = {
        (source, prompt)
        for group in benchmark.groups
        for source, row in zip(group.references, group.prompts)
        for prompt in row
    }
    prompts = {prompt for _, prompt in queries}
    blind, seeing = (
        encode(benchmark, golden_clip, {"composed": mapper}, EncodingOptions(workers=0)).passes
        for mapper in (Pic2Word(golden_clip.sizes).eval(), golden_mapper)
    )
    assert (blind["texts"], blind["compositions"]) == (captions, len(queries))
    assert (seeing["texts"], seeing["compositions"]) == (captions + len(prompts), len(queries))
    only = encode(benchmark, golden_clip, {"composed": Pic2Word(golden_clip.sizes).eval()}, EncodingOptions(workers=0),
                  needs={"composed"}).passes  # fmt: skip
    assert (only["texts"], only["compositions"]) == (0, len(queries))


def count(clip, name, passed, monkeypatch):
    original = getattr(type(clip), name)

    def counting(self, inputs, *rest):
        passed[name] += len(inputs)
        return original(self, inputs, *rest)

    monkeypatch.setattr(type(clip), name, counting)


def test_a_mapper_without_tokens_needs_no_vision_pass_beside_cached_embeddings(golden_clip, few, tmp_path):
    mapper = Pic2Word(golden_clip.sizes).eval()
    options = EncodingOptions(7, workers=0, feature_cache=tmp_path)
    first, second = (evaluate(few, golden_clip, {"composed": mapper}, options) for _ in range(2))
    assert second.passes == first.passes | {"images": 0}
    assert second.metrics == first.metrics


def test_same_table_for_any_batch_size_and_worker_count(golden_clip, golden_mapper, few):
    results = [
        evaluate(few, golden_clip, {"composed": golden_mapper}, EncodingOptions(batch_size, workers))
        for batch_size, workers in ((1, 0), (5, 2), (64, 0))
    ]
    for other in results[1:]:
        assert other.metrics == results[0].metrics
        assert all(torch.equal(top, results[0].tops[key]) for key, top in other.tops.items())


def test_copies_of_an_image_tie_exactly(golden_clip, golden_mapper, few, tmp_path):
    group = few.groups[0]
    copies = []
    for number in range(9):
        path = tmp_path / f"{number}.png"
        path.write_bytes(Path(group.gallery[3].path).read_bytes())
        copies.append(ImageSource(str(path)))
    gallery = [*copies[:4], *group.gallery, *copies[4:]]
    names = [str(number) for number in range(len(gallery))]
    crowded = replace(few, groups=[replace(group, gallery=gallery, gallery_names=names)])
    encoded = encode(crowded, golden_clip, {"composed": golden_mapper}, EncodingOptions(7, workers=0))
    top = rank(crowded.groups[0], "composed", encoded).top(len(gallery)).tolist()
    same = [0, 1, 2, 3, 7, *range(len(gallery) - 5, len(gallery))]
    for row in top:
        assert [index for index in row if index in same] == same


def test_amp_stays_close(golden_clip, golden_mapper, few):
    exact, mixed = (
        encode(few, golden_clip, {"composed": golden_mapper}, EncodingOptions(precision=precision, workers=0))
        for precision in ("fp32", "amp")
    )
    assert (exact.image_features * mixed.image_features).sum(1).min() > 0.9995
    assert (exact.composers["composed"].features * mixed.composers["composed"].features).sum(1).min() > 0.999


def test_unreadable_images_are_all_listed(golden_clip, golden_mapper, few, tmp_path):
    broken = []
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_text("no image")
        broken.append(ImageSource(str(tmp_path / name)))
    group = replace(few.groups[0], gallery=[*few.groups[0].gallery, *broken])
    with pytest.raises(UserError) as caught:
        evaluate(replace(few, groups=[group]), golden_clip, {}, EncodingOptions(4, workers=0))
    assert "2 of" in str(caught.value)
    assert all(source.path in str(caught.value) for source in broken)


def test_missing_images_stop_before_any_encoding(golden_clip, few, monkeypatch):
    monkeypatch.setattr(type(golden_clip), "encode_image", lambda *_: pytest.fail("encoded"))
    group = replace(few.groups[0], gallery=[*few.groups[0].gallery, ImageSource("absent.png")])
    with pytest.raises(UserError, match=r"absent\.png"):
        evaluate(replace(few, groups=[group]), golden_clip, {})
