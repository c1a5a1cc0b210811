"""i-CIR and domain conversion: each number equal to plain loops over a full matrix of similarities."""

import csv
import json
from itertools import permutations
from pathlib import Path

import pytest
import torch
from tests.benchmarks.made_more import DOMAINS, write_domains, write_icir
from tests.ranking.test_metrics import plain_average_precision
from torch.nn.functional import normalize

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.base import check_images_exist
from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.evaluation.report import rankings
from context_i2w.model.clip import ImageFeatures
from context_i2w.model.images import ImageSource, Preparation
from context_i2w.model.prompts import Tokenizer, fill, readable
from context_i2w.preparation import data_check

ROWS = ("image", "text", "image+text", "image*text", "composed")


class Plain:
    """Whole matrices: all images in one batch, all queries in one, every similarity at once."""

    def __init__(self, clip, mapper):
        self.clip, self.mapper = clip, mapper
        self.tokenise = Tokenizer(clip.sizes.context_length)

    @torch.no_grad()
    def images(self, paths):
        prepare = Preparation(self.clip.sizes.image_size, self.clip.image_mean, self.clip.image_std)
        return self.clip.encode_image(torch.stack([prepare(ImageSource(str(path))) for path in paths]))

    @torch.no_grad()
    def queries(self, images, texts, prompts):
        """{row: unit queries}"""
        image = normalize(images.embedding)
        text = normalize(self.clip.encode_text(self.tokenise(texts)))
        ids = self.tokenise(prompts)
        words = self.mapper(self.clip.encode_text(ids), images)
        composed = normalize(self.clip.compose(ids, words))
        rows = {"image": image, "text": text, "image+text": normalize(image + text), "composed": composed}
        return rows | {"image*text": (image, text)}

    def orders(self, queries, gallery):
        """{row: places of the gallery from best to worst [Q, G], equal ones in their order}"""
        gallery = normalize(gallery.embedding).double()
        scores = {row: x.double() @ gallery.T for row, x in queries.items() if row != "image*text"}
        scores["image*text"] = scores["image"].clamp(min=0) * scores["text"].clamp(min=0)
        scores = {row: found.mul(1e7).round() for row, found in scores.items()}
        return {row: (-found).argsort(dim=1, stable=True).tolist() for row, found in scores.items()}


@pytest.fixture
def plain(golden_clip, golden_mapper):
    return Plain(golden_clip, golden_mapper)


def run(mode, root, plain):
    benchmark = BENCHMARKS[mode].load(root, None)
    return evaluate(benchmark, plain.clip, {"composed": plain.mapper}, EncodingOptions(batch_size=7, workers=0), ROWS)


def mean(values):
    return sum(values) / len(values)


def test_icir_equals_a_loop_over_ranks(tmp_path, plain):
    root = write_icir(tmp_path)
    files = [root / "icir" / f"{name}_files.csv" for name in ("query", "database")]
    queries, database = ([r for r in csv.reader(file.open(encoding="utf-8-sig", newline="")) if r] for file in files)
    by_instance = {row: {} for row in ROWS}
    for path, text, instance in queries:
        lines = [line for line in database if line[2] == instance]
        texts = [fill("{caption}", caption=text)], [fill("a photo of [*] , {caption}", caption=text)]
        asked = plain.queries(plain.images([root / path]), *texts)
        for row, orders in plain.orders(asked, plain.images([root / line[0] for line in lines])).items():
            found = plain_average_precision([lines[place][1] == text for place in orders[0]])
            by_instance[row].setdefault(instance, []).append(found)
    results = run("icir", root, plain).metrics["all"]
    for row, instances in by_instance.items():
        every = [value for values in instances.values() for value in values]
        assert results[row]["mAP"] == pytest.approx(mean(every), abs=1e-6)
        assert results[row]["mmAP"] == pytest.approx(mean([mean(values) for values in instances.values()]), abs=1e-6)
        assert results[row]["minmAP"] == pytest.approx(mean([min(values) for values in instances.values()]), abs=1e-6)


def test_icir_lists(tmp_path, plain):
    root = write_icir(tmp_path)
    result = run("icir", root, plain)
    group = result.benchmark.groups[0]
    assert readable(group.texts[1][0]) == "in snow, at night"
    assert readable(group.prompts[0][0]) == "a photo of [*] , on a desk"
    assert [len(row) for row in group.positives] == [4, 6, 5, 0]  # exact strings; the image listed twice counts twice
    entries = [entry for entry in rankings(result) if entry["row"] == "composed"]
    assert [entry["id"] for entry in entries] == list(group.query_ids)
    assert entries[1]["id"] == "icir/query/dog statue/q1.jpg"
    assert len(entries[1]["top"]) == 12
    assert {Path(name).parent.name for name in entries[1]["top"]} == {"dog statue"}
    assert result.passes["images"] == 24 + 3


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("icir/query/lamp/q0.jpg,on a desk, by night,lamp", ":5: `image_path,text,instance` is expected"),
        ("icir/query/lamp/q0.jpg,lamp", ":5: `image_path,text,instance` is expected"),
        ('icir/query/lamp/q0.jpg,"on a desk,lamp', "can't be read as CSV"),
        ("icir/query/lamp/q0.jpg,on a desk,vase", "no database line of instance 'vase'"),
    ],
)
def test_icir_lines_that_cannot_be_meant_are_refused(tmp_path, line, trouble):
    root = write_icir(tmp_path)
    file = root / "icir" / "query_files.csv"
    file.write_text(file.read_text(encoding="utf-8").rstrip() + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=trouble):
        BENCHMARKS["icir"].load(root, None)


@pytest.mark.parametrize("mode", ["nico", "minidn", "ltll", "imagenet-r-all"])
def test_domain_lists(tmp_path, mode):
    name = mode.replace("imagenet-r-all", "imagenet_r")
    root = write_domains(tmp_path, name)
    benchmark = BENCHMARKS[mode].load(root, None)
    check_images_exist(benchmark)
    domains = DOMAINS[name]
    assert len(benchmark.groups) == len(domains) * (len(domains) - 1)
    lists = (
        ("query_files.csv", "database_files.csv")
        if (root / name / "query_files.csv").is_file()
        else 2 * ("full_files.csv",)
    )
    queries, database = (
        [line.split() for line in (root / name / file).read_text().split("\n") if line] for file in lists
    )
    words = {"dim": "dimlight", "real": "photo", "New": "Today", "Old": "Archive"}
    for group in benchmark.groups:
        source, target = group.name.split(" to ")
        asked = [line for line in queries if line[1] == source]
        assert list(group.query_ids) == [line[0] for line in asked]
        assert list(group.gallery_names) == [line[0] for line in database]
        assert {readable(texts[0]) for texts in group.texts} == {words.get(target, target)}
        assert {readable(prompts[0]) for prompts in group.prompts} == {f"a {words.get(target, target)} of [*]"}
        answers = [[i for i, line in enumerate(database) if line[1:] == [target, kind]] for _, _, kind in asked]
        assert [list(row) for row in group.positives] == answers
    finding = data_check.check_benchmark(mode, root)
    assert finding.state == data_check.COMPLETE
    assert finding.next.endswith(f"--eval-mode {mode} --data-root {root}")


def test_a_line_of_an_unknown_domain_is_refused(tmp_path):
    root = write_domains(tmp_path, "ltll")
    with open(root / "ltll" / "full_files.csv", "a") as file:
        file.write("ltll/new/x y.jpg New house\n")
    with pytest.raises(UserError, match=r"full_files.csv:\d+: `path domain class`.*one of New, Old"):
        BENCHMARKS["ltll"].load(root, None)


def expected_of(lists, cutoffs):
    """{metric: value} of relevance lists."""
    results = {"mAP": mean([plain_average_precision(hits) for hits in lists])}
    for k in cutoffs:
        results[f"R@{k}"] = 100 * mean([sum(hits[:k]) / (sum(hits) + 1e-5) for hits in lists])
        results[f"P_capped@{k}"] = 100 * mean([sum(hits[:k]) / (min(sum(hits), k) + 1e-5) for hits in lists])
    return results


def assert_all_pairs(result, plain, root, lines, cutoffs, words):
    """lines: (path, domain, class), queries and gallery alike."""
    gallery, every = plain.images([root / line[0] for line in lines]), {}
    for source, target in permutations([word for word in words if any(line[1] == word for line in lines)], 2):
        asked = [number for number, line in enumerate(lines) if line[1] == source]
        images = ImageFeatures(gallery.embedding[asked], gallery.tokens[asked])
        texts = [fill(text, word=words[target]) for text in ("{word}", "a {word} of [*]")]
        orders = plain.orders(plain.queries(images, *([text] * len(asked) for text in texts)), gallery)
        for row, found in orders.items():
            wanted = [(target, lines[number][2]) for number in asked]
            hits = [[lines[place][1:] == answer for place in order] for order, answer in zip(found, wanted)]
            every.setdefault(row, {})[f"{source} to {target}"] = expected_of(hits, cutoffs)
    for row, groups in every.items():
        for name, metrics in groups.items():
            assert result.metrics[name][row] == pytest.approx(metrics, abs=1e-6), (name, row)
        averages = {m: mean([metrics[m] for metrics in groups.values()]) for m in result.metrics["mean"][row]}
        assert result.metrics["mean"][row] == pytest.approx(averages, abs=1e-6)


def test_ltll_equals_a_full_matrix(tmp_path, plain):
    root = write_domains(tmp_path, "ltll")
    lines = [tuple(line.split()) for line in (root / "ltll" / "full_files.csv").read_text().split("\n") if line]
    spelled = [line if (root / line[0]).is_file() else (line[0].replace("t_c", "t c"), *line[1:]) for line in lines]
    assert_all_pairs(run("ltll", root, plain), plain, root, spelled, (5, 10), {"New": "Today", "Old": "Archive"})


def test_the_toy_worlds_imagenet_r_equals_a_full_matrix(mini_world, plain):
    root = mini_world / "test"
    names = ["cartoon", "origami", "toy", "sculpture", "", "", "real"]
    lines = []
    for line in (root / "imgnet" / "imgnet_targets.txt").read_text().splitlines():
        path, label = line.split()
        lines.append((path, names[int(label) // 1000], int(label) % 1000))
    words = {name: name for name in names} | {"real": "photo"}
    result = run("imagenet-r-all", root, plain)
    assert result.benchmark.protocol["sets"] == "those of imgnet"
    assert_all_pairs(result, plain, root, lines, (10, 50), words)


def test_metrics_are_written_as_numbers(tmp_path, plain):
    metrics = run("icir", write_icir(tmp_path), plain).metrics
    assert json.loads(json.dumps(metrics)) == metrics
