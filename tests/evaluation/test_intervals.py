"""Intervals and comparisons: equal to the statistics taken by hand from the rankings' scores."""

import json

import numpy as np
import pytest
from scipy import stats
from tests.benchmarks.made_more import write_domains, write_icir

import compare
from context_i2w.benchmarks import BENCHMARKS
from context_i2w.errors import UserError
from context_i2w.evaluation.comparison import compare_all, read_scores
from context_i2w.evaluation.evaluate import evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.evaluation.intervals import intervals, reference_numbers
from context_i2w.evaluation.report import rankings, table, write_rankings
from context_i2w.ranking.significance import Scores, bootstrap_interval


@pytest.fixture(scope="module")
def result(tmp_path_factory, golden_clip):
    root = write_domains(tmp_path_factory.mktemp("data"), "minidn")
    return evaluate(BENCHMARKS["minidn"].load(root, None), golden_clip, {}, EncodingOptions(workers=0))


@pytest.fixture
def file(result, tmp_path):
    write_rankings(result, tmp_path / "a.jsonl")
    return tmp_path / "a.jsonl"


def test_intervals_are_those_of_the_queries_scores(result):
    bounds, units = intervals(result), reference_numbers(result)
    assert set(bounds) == set(result.metrics)
    every = {}
    for entry in rankings(result):
        if entry["row"] == "image+text":
            every.setdefault(entry["group"], []).append((entry["scores"]["mAP"], entry["reference"]))
    name = next(iter(every))
    values, numbers = map(np.array, zip(*every[name]))
    assert numbers.tolist() == units[name].tolist()
    share = np.full(len(values), 1 / len(values))
    wanted = bootstrap_interval(Scores(values[None], share, numbers))
    assert bounds[name]["image+text"]["mAP"] == pytest.approx(wanted, abs=1e-5)
    scores = Scores(
        np.array([[value for pairs in every.values() for value, _ in pairs]]),
        np.concatenate([np.full(len(pairs), 1 / len(pairs) / len(every)) for pairs in every.values()]),
        np.array([number for pairs in every.values() for _, number in pairs]),
    )
    assert scores.mean == pytest.approx(result.metrics["mean"]["image+text"]["mAP"], abs=1e-5)
    assert bounds["mean"]["image+text"]["mAP"] == pytest.approx(bootstrap_interval(scores), abs=1e-5)
    low, high = bounds["mean"]["image+text"]["mAP"]
    assert f"[{low:.2f}, {high:.2f}]" in table(result, bounds)
    assert "[" not in table(result).split("\n", 1)[1]


def test_intervals_of_instances(tmp_path, golden_clip):
    found = evaluate(BENCHMARKS["icir"].load(write_icir(tmp_path), None), golden_clip, {}, EncodingOptions(workers=0))
    bounds = intervals(found)["all"]["image"]
    for metric in ("mAP", "mmAP", "minmAP"):
        low, high = bounds[metric]
        assert low <= found.metrics["all"]["image"][metric] <= high
    assert set(next(iter(rankings(found)))["scores"]) == {"mAP"}


def test_two_rows_of_a_file_are_paired_by_query(file, tmp_path, capsys):
    output = tmp_path / "out.json"
    lines = compare.main([str(file), "--rows", "image", "text", "--metrics", "mAP", "--output", str(output)])
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        ours, theirs = (
            [e["scores"]["mAP"] for e in entries if (e["group"], e["row"]) == (line.group, row)]
            for row in ("image", "text")
        )
        wanted = stats.ttest_rel(ours, theirs)  # within a group each reference has one query
        assert line.difference.mean == pytest.approx(np.mean(ours) - np.mean(theirs))
        assert line.difference.p == pytest.approx(wanted.pvalue)
        assert line.adjusted_p >= line.difference.p
        assert line.means == (pytest.approx(np.mean(ours)), pytest.approx(np.mean(theirs)))
    assert [entry["group"] for entry in json.loads(output.read_text())] == [line.group for line in lines]
    assert "image − text" in capsys.readouterr().out


def test_a_file_against_itself(file):
    assert {line.difference.mean for line in compare.main([str(file), str(file)])} == {0.0}


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        (lambda text: text.replace('"scores"', '"other"'), "a.jsonl:1: no ranking of a query with its scores"),
        (lambda text: text[:200], "a.jsonl:1: no ranking"),
        (lambda text: "", "empty"),
    ],
)
def test_files_without_scores_are_refused(file, change, trouble):
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=trouble):
        read_scores(file)


def test_what_cannot_be_paired_is_refused(file):
    rows = read_scores(file)
    with pytest.raises(UserError, match="no row 'other'; rows are image, text"):
        compare_all(rows, rows, [("image", "other")])
    with pytest.raises(UserError, match="nothing to compare"):
        compare_all(rows, rows, [("image", "text")], ["R@3"])
    name = next(iter(rows["text"]))
    shorter = {"text": {name: dict(list(rows["text"][name].items())[1:])}}
    with pytest.raises(UserError, match="other queries"):
        compare_all(rows, shorter, [("image", "text")])
