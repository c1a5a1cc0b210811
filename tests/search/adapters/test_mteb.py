"""The encoder of mteb in mteb's own evaluation, against our evaluation of the same queries and gallery."""

import math
import sys

import numpy as np
import pytest

from context_i2w import Retriever
from context_i2w.benchmarks import BENCHMARKS
from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.model.prompts import readable
from context_i2w.toy_world import Sizes, make_toy_world

mteb = pytest.importorskip("mteb", minversion="2")
import datasets  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from context_i2w.search.adapters.mteb import ComposedEncoder  # noqa: E402

QUERIES = 40  # shares of them have three decimals, so mteb's rounding to five keeps them


@pytest.fixture(scope="module")
def retriever():
    return Retriever.load("toy", device="cpu")


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """FashionIQ's dresses as the toy world draws them."""
    sizes = Sizes(1, 1, 1, QUERIES, 60, 1, 1, 1)
    root = make_toy_world(tmp_path_factory.mktemp("world") / "toy", sizes=sizes, workers=1)
    kind = BENCHMARKS["fashion"]
    return kind.load(root / "test", kind.options(source="dress"))


@pytest.fixture(scope="module")
def task(made_up):
    """The benchmark's queries, gallery and answers as a task of mteb."""
    return task_of(made_up)


def task_of(made_up):
    [group] = made_up.groups
    images = datasets.Image()
    queries = {
        "id": [f"q{number}" for number in range(QUERIES)],  # FashionIQ's own are the references', which recur
        "text": [readable(prompt) for (prompt,) in group.prompts],
        "image": [source.path for source in group.references],
    }
    corpus = {"id": list(group.gallery_names), "image": [source.path for source in group.gallery]}
    answers = {
        query: {group.gallery_names[row]: 1 for row in rows} for query, rows in zip(queries["id"], group.positives)
    }

    class ToyFashion(AbsTaskRetrieval):
        k_values = (1, 5, 10, 50)
        metadata = TaskMetadata(
            name="ToyFashion",
            description="Dresses of the toy world, changed as the text says.",
            dataset={"path": "none", "revision": "none"},
            type="Any2AnyRetrieval",
            category="it2i",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            modalities=["text", "image"],
        )

        def load_data(self, *args, **kwargs):
            split = {
                "queries": datasets.Dataset.from_dict(queries).cast_column("image", images),
                "corpus": datasets.Dataset.from_dict(corpus).cast_column("image", images),
                "relevant_docs": answers,
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return ToyFashion()


def scores(model, task):
    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False, encode_kwargs={"batch_size": 16})
    [result] = found.task_results
    return result.scores["test"][0]


def test_mtebs_metrics_are_ours(retriever, made_up, task):
    """Recall by our evaluation; its main score, nDCG, by the definition, of our rankings."""
    methods = ["composed", "anchored"]
    ours = evaluate(made_up, retriever.clip, {"composed": retriever.mapper}, EncodingOptions(), methods)
    [group] = made_up.groups
    for method in methods:
        theirs, wanted = scores(ComposedEncoder(retriever, method=method), task), ours.metrics["dress"][method]
        assert 0 < wanted["R@1"] < wanted["R@5"] < 100
        for k in (1, 5, 10, 50):
            assert abs(100 * theirs[f"recall_at_{k}"] - wanted[f"R@{k}"]) <= 1e-6
        tops = ours.tops["dress", method][:, :10].tolist()
        places = [top.index(row) for top, (row,) in zip(tops, group.positives) if row in top]
        assert theirs["ndcg_at_10"] == round(sum(1 / math.log2(place + 2) for place in places) / QUERIES, 5)


def test_what_the_encoder_says_of_itself_loads_it_again(retriever, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    retriever.save_pretrained("owner/name")
    meta = ComposedEncoder("owner/name", device="cpu", method="blended", license="apache-2.0").mteb_model_meta
    assert (meta.name, meta.license, meta.embed_dim, meta.max_tokens) == ("owner/name", "apache-2.0", 128, 77)
    parts = [*retriever.clip.parameters(), *retriever.mapper.parameters()]
    assert meta.n_parameters == sum(weight.numel() for weight in parts)
    again = meta.load_model(device="cpu")
    assert (type(again), again.method, again.mteb_model_meta.name) == (ComposedEncoder, "blended", meta.name)
    unnamed = ComposedEncoder(retriever).mteb_model_meta
    assert (unnamed.name, unnamed.loader) == ("context-i2w/toy_clip", None)


def test_batches_of_each_kind(retriever, made_up):
    """Only queries are composed; mteb's instruction stays out."""
    encoder, [picture, other] = ComposedEncoder(retriever), [source.path for source in made_up.groups[0].gallery[:2]]
    batch = {"image": [picture, other], "text": ["is red Find it", "is blue Find it"], "query": ["is red", "is blue"]}
    kinds = {kind: encoder.encode([batch, batch], prompt_type=kind) for kind in PromptType}
    assert np.array_equal(kinds[PromptType.query][:2], retriever.encode([picture, other], batch["query"]))
    assert np.array_equal(kinds[PromptType.document][2:], retriever.encode([picture, other]))
    rows = encoder.encode([{"text": ["a red car"]}], show_progress_bar=False)
    assert np.array_equal(rows, retriever.encode(texts="a red car"))


def test_without_the_library_one_line_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "context_i2w.search.adapters.mteb")
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(UserError, match="the extra 'mteb' brings it"):
        __import__("context_i2w.search.adapters.mteb")
