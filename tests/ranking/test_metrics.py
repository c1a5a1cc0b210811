"""Metric functions: hand-made cases, and values that the published implementation gives (tests/golden)."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from context_i2w.ranking import metrics
from context_i2w.ranking.exact import Ranking

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "metrics.json").read_text())
CUTOFFS = (1, 5, 10, 50, 100)


@pytest.fixture(scope="module")
def features():
    return load_file(GOLDEN / "metrics.safetensors")


def test_recall_counts_ranks_up_to_k():
    ranks = torch.tensor([1, 2, 5, 6])
    assert metrics.recall_at(ranks, (1, 5)) == {"R@1": 25.0, "R@5": 75.0}


def test_median_of_an_even_number_is_rounded_down():
    assert metrics.rank_statistics(torch.tensor([1, 2, 3, 10])) == {"mean rank": 4.0, "median rank": 2.0}


def test_published_recall_divides_by_the_positives():
    hits = torch.tensor([[True, False, True], [False, False, False]])
    result = metrics.recall_and_precision_at(hits, torch.tensor([4, 0]), (1, 3), gallery_size=2)
    assert result["R@3"] == pytest.approx(100 * (2 / 4) / 2, rel=1e-5)
    assert result["P@1"] == 50.0
    assert result["P@3"] == 100 * (2 / 2) / 2  # at most the gallery counts


def test_ceiling_is_the_recall_of_a_perfect_ranking():
    positives = torch.tensor([3, 0, 12])
    hits = torch.arange(20)[None] < positives[:, None]
    perfect = metrics.recall_and_precision_at(hits, positives, (1, 10), gallery_size=20)
    assert metrics.recall_ceiling_at(positives, (1, 10)) == pytest.approx({k: perfect[k] for k in ("R@1", "R@10")})


def test_mean_average_precision_by_hand():
    hits = torch.tensor([[True, False, True, False, False]])
    result = metrics.mean_average_precision_at(hits, torch.tensor([3]), (1, 5))
    assert result["mAP@1"] == 100.0
    assert result["mAP@5"] == pytest.approx(100 * (1 + 2 / 3) / 3)


def plain_average_precision(relevant: list[bool]) -> float:
    """The Oxford evaluation's loop over all ranks: the area under precision over recall, trapezoid by trapezoid."""
    count, found, before, area = sum(relevant), 0, 1.0, 0.0
    for place, hit in enumerate(relevant):
        found += hit
        precision = found / (place + 1)
        if hit:
            area += (before + precision) / 2 / (count + 1e-5)
        before = precision
    return 100 * area


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=6), st.data())
def test_average_precision_equals_the_loop_over_ranks(relevant, data):
    """Several positives, one, none, all."""
    lists = [[place + 1 for place, hit in enumerate(row) if hit] for row in relevant]
    ranks = torch.tensor([row + [0] * (12 - len(row)) for row in lists])
    wanted = [plain_average_precision(row) for row in relevant]
    assert metrics.average_precisions(ranks).tolist() == pytest.approx(wanted, abs=1e-9)
    assert metrics.mean_average_precision(ranks)["mAP"] == pytest.approx(sum(wanted) / len(wanted))
    instances = data.draw(st.lists(st.sampled_from("abc"), min_size=len(relevant), max_size=len(relevant)))
    of_each = [[w for w, name in zip(wanted, instances) if name == instance] for instance in set(instances)]
    found = metrics.mean_average_precision_by_instance(ranks, instances)
    assert found["mAP"] == pytest.approx(sum(wanted) / len(wanted))
    assert found["mmAP"] == pytest.approx(sum(sum(row) / len(row) for row in of_each) / len(of_each))
    assert found["minmAP"] == pytest.approx(sum(min(row) for row in of_each) / len(of_each))
    for number in found.values():
        weights = 1 / len(wanted) if number.weights is None else number.weights
        assert float((number.values * weights).sum()) == pytest.approx(number)


def test_average_precision_by_hand():
    ranks = torch.tensor([[1, 4], [3, 0], [0, 0]])
    first = (1 + 1) / 2 + (1 / 3 + 2 / 4) / 2
    wanted = [100 * first / 2.00001, 100 * (0 + 1 / 3) / 2 / 1.00001, 0]
    assert metrics.average_precisions(ranks).tolist() == pytest.approx(wanted)


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=5), st.integers(1, 12))
def test_domain_recall_and_precision_count_hits(relevant, k):
    ranks = torch.tensor([sorted(i + 1 for i in range(9) if row[i]) + [0] * (9 - sum(row)) for row in relevant])
    found = metrics.domain_recall_and_precision(ranks, (k,))
    recalls = [sum(row[:k]) / (sum(row) + 1e-5) for row in relevant]
    precisions = [sum(row[:k]) / (min(sum(row), k) + 1e-5) for row in relevant]
    assert found[f"R@{k}"] == pytest.approx(100 * sum(recalls) / len(recalls))
    assert found[f"P_capped@{k}"] == pytest.approx(100 * sum(precisions) / len(precisions))


def test_mean_over_groups_keeps_shared_metrics():
    assert metrics.mean_over_groups([{"R@1": 1.0, "x": 0.0}, {"R@1": 3.0}]) == {"R@1": 2.0}


def test_golden_coco_both_directions(features):
    expected = EXPECTED["coco"]["metrics"]
    ranking = Ranking(features["coco.ref_features"], features["coco.image_features"])
    targets = torch.arange(130)
    for direction, name in ((ranking, "ref_to_image"), (ranking.reversed(), "image_to_ref")):
        ranks = direction.ranks(targets)
        recall = metrics.recall_at(ranks, CUTOFFS)
        assert recall == pytest.approx({k: 100 * expected[f"{name}_{k}"] for k in recall}, abs=1e-6)
        statistics = metrics.rank_statistics(ranks)
        assert statistics["mean rank"] == pytest.approx(expected[f"{name}_mean_rank"])
        assert statistics["median rank"] == expected[f"{name}_median_rank"]


def cirr_ranking(features):
    names = EXPECTED["cirr"]["index_names"]
    reference = torch.tensor([names.index(name) for name in EXPECTED["cirr"]["reference_names"]])
    return names, Ranking(features["cirr.ref_features"], features["cirr.image_features"], excluded=reference)


def test_golden_cirr(features):
    names, ranking = cirr_ranking(features)
    ranks = ranking.ranks(torch.tensor([names.index(name) for name in EXPECTED["cirr"]["target_names"]]))
    expected = EXPECTED["cirr"]["metrics"]
    recall = metrics.recall_at(ranks, CUTOFFS, "recall_R@{}")
    assert recall == pytest.approx(expected, abs=1e-5)  # the published mean is float32


def test_golden_cirr_submission_lists(features):
    names, ranking = cirr_ranking(features)
    stems = [name.removesuffix(".png") for name in names]
    for pair, top in zip(EXPECTED["cirr_test"]["pair_ids"], ranking.top(50), strict=True):
        assert [stems[i] for i in top] == EXPECTED["cirr_test"]["output"][str(pair)]


def test_golden_fashion(features):
    names = EXPECTED["fashion"]["target_names"]
    targets = torch.tensor([names.index(name) for name in EXPECTED["fashion"]["answer_names"]])
    ranks = Ranking(features["fashion.ref_features"], features["fashion.image_features"]).ranks(targets)
    assert metrics.recall_at(ranks, CUTOFFS) == pytest.approx(EXPECTED["fashion"]["metrics"], abs=1e-5)


@pytest.mark.parametrize("domain", range(4))
def test_golden_imagenet(features, domain):
    labels = features["imgnet.target_labels"]
    wanted = features["imgnet.base_query_labels"] + 1000 * domain
    top = Ranking(features["imgnet.query_features"], features["imgnet.image_features"]).top(200)
    hits = labels[top] == wanted[:, None]
    positives = (labels[None] == wanted[:, None]).sum(1)
    result = metrics.recall_and_precision_at(hits, positives, (*CUTOFFS, 200), len(labels))
    expected = {k.removeprefix("Real2Sketch_"): 100 * v for k, v in EXPECTED["imgnet"][f"domain{domain}"].items()}
    assert result == pytest.approx(expected, abs=1e-5)
