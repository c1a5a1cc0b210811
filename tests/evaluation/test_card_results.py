"""An evaluation's numbers in a model card, as the hub's own parser reads them."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.checkpoints.files import CLIPReference
from context_i2w.checkpoints.shared import save_pretrained
from context_i2w.errors import UserError
from context_i2w.evaluation.card_results import read_results
from context_i2w.evaluation.evaluate import evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.evaluation.report import as_json, write_json
from context_i2w.model.mappers import ContextI2W, ContextI2WOptions, Pic2Word

ABOUT = {"checkpoints": {"ours": {"sha256": "aa"}, "theirs": {"sha256": "bb"}}}


@pytest.fixture(scope="module")
def mapper(golden_clip):
    return ContextI2W(golden_clip.sizes, ContextI2WOptions(queries=2, depth=1, heads=2, head_width=8, hidden=16)).eval()


@pytest.fixture(scope="module")
def files(golden_clip, golden_data, mapper, tmp_path_factory) -> list[Path]:
    """CIRR, of two mappers and baselines; then the same as `--eval-mode all` writes it."""
    folder, mappers = tmp_path_factory.mktemp("json"), {"ours": mapper, "theirs": Pic2Word(golden_clip.sizes).eval()}
    benchmark = BENCHMARKS["cirr"].load(golden_data)
    result = evaluate(benchmark, golden_clip, mappers, EncodingOptions(workers=0), ["image", "composed", "blended"])
    write_json(as_json(result, ABOUT), folder / "one.json")
    content = {"benchmark": "all", "benchmarks": {"cirr": as_json(result, ABOUT)}, "not at hand": {}, "failed": {}}
    write_json(content, folder / "all.json")
    return [folder / "one.json", folder / "all.json"]


def test_the_card_holds_the_numbers_of_its_mapper(files, golden_clip, mapper, tmp_path):
    results = read_results(files[:1], "aa")
    wanted = json.loads(files[0].read_text())["results"]["all"]
    assert {(r.metric_config, r.metric_type): r.metric_value for r in results} == {
        (method, metric): round(value, 2)
        for method in ("composed", "blended")
        for metric, value in wanted[f"ours {method}"].items()
    }
    reference = CLIPReference("ViT-L-14", "openai", "ab" * 32)
    save_pretrained(tmp_path / "m", mapper, reference, golden_clip.sizes, results=results)
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.eval_results == results
    assert (card.data.model_name, card.data.license, card.data.library_name) == ("m", "apache-2.0", "context-i2w")
    assert card.data.base_model == "openai/clip-vit-large-patch14"
    row = next(line for line in card.text.splitlines() if line.startswith("| cirr | composed | "))
    assert f"R@10 {wanted['ours composed']['R@10']:.2f}," in row
    assert "- cirr: " in card.text


def test_files_of_all_benchmarks_are_read_too(files):
    assert read_results(files[1:], "bb") == read_results(files[:1], "bb") != read_results(files[:1], "aa")


def test_a_card_without_numbers_has_no_table(golden_clip, mapper, tmp_path):
    save_pretrained(tmp_path, mapper, CLIPReference("x", None, "00"), golden_clip.sizes)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None
    assert "Results" not in card.text
    assert "base_model" not in card.data.to_dict()


def test_refused(files, tmp_path):
    with pytest.raises(UserError, match=r"evaluates another checkpoint \(ours, theirs\)"):
        read_results(files[:1], "cc")
    (tmp_path / "x.json").write_text('{"benchmark": "cirr"}')
    with pytest.raises(UserError, match=r"x\.json: it has no 'protocol'; write it with"):
        read_results([tmp_path / "x.json"], "aa")
