"""The module of sentence-transformers: equal rows, a round trip through its files, what it refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.search.test_retriever import draw

from context_i2w import Retriever
from context_i2w.errors import UserError

pytest.importorskip("sentence_transformers", minversion="6")
from sentence_transformers import SentenceTransformer

from context_i2w.search.adapters.sentence_transformers import ComposedModule


@pytest.fixture(scope="module")
def retriever():
    return Retriever.load("toy", device="cpu")


@pytest.fixture(scope="module")
def model(retriever):
    return SentenceTransformer(modules=[ComposedModule(retriever)], device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return [str(draw(folder / name, number)) for number, name in enumerate(("a.png", "b.jpg", "c.png"))]


def test_rows_are_the_retrievers(model, retriever, pictures):
    a, b, c = pictures
    near = lambda rows, wanted: rows.dtype == np.float32 and np.abs(rows - wanted).max() <= 1e-6  # noqa: E731
    assert near(model.encode([a, {"image": b}, Image.open(c)], batch_size=2), retriever.encode([a, b, c]))
    texts = ["a red car", "a dress", "a car at night"]
    assert near(model.encode([texts[0], {"text": texts[1]}, texts[2]]), retriever.encode(texts=texts))
    assert near(
        model.encode(texts[1:], prompt="photo of "), retriever.encode(texts=["photo of " + t for t in texts[1:]])
    )
    images, asked = [b, Image.open(a), [a, b]], ["a photo of [*] at night", "is blue", "a photo of [*1] on [*2]"]
    queries = model.encode([{"image": image, "text": text} for image, text in zip(images, asked)])
    assert near(queries, retriever.encode(images, asked))
    assert near(model.encode({"image": b, "text": asked[0]}), queries[0])
    assert model.get_embedding_dimension() == queries.shape[1]
    assert model.similarity(queries[1:2], queries).argmax() == 1


def test_saved_and_loaded_again(retriever, pictures, tmp_path):
    """The folder is one for both libraries, and the method comes along."""
    SentenceTransformer(modules=[ComposedModule(retriever, "blended")], device="cpu").save(str(tmp_path / "m"))
    again = SentenceTransformer(str(tmp_path / "m"), device="cpu", trust_remote_code=True)
    query = {"image": pictures[0], "text": "at night"}
    assert again[0].method == "blended"
    assert np.abs(again.encode(query) - retriever.encode(pictures[0], "at night", "blended")).max() <= 1e-6
    rows = Retriever.load(tmp_path / "m", device="cpu").encode(pictures)
    assert np.array_equal(rows, retriever.encode(pictures))
    [module] = json.loads((tmp_path / "m" / "modules.json").read_text())
    assert module["type"] == "context_i2w.search.adapters.sentence_transformers.ComposedModule"
    again.save(str(tmp_path / "n"))
    assert (tmp_path / "n" / "mapper.safetensors").read_bytes() == (tmp_path / "m" / "mapper.safetensors").read_bytes()


def test_code_is_imported_only_where_the_caller_says_so(model, tmp_path):
    model.save(str(tmp_path))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tmp_path), device="cpu")


def test_what_is_pushed_is_what_is_saved(model, monkeypatch):
    """push_to_hub up to the upload."""
    from huggingface_hub import CommitInfo, HfApi, RepoUrl

    sent = {}

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        sent.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
        return CommitInfo(
            commit_url=f"https://huggingface.co/{repo_id}", commit_message="", commit_description="", oid="0"
        )

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: RepoUrl(f"https://huggingface.co/{repo_id}"))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    model.push_to_hub("owner/name", replace_model_card=True)
    assert {"modules.json", "config.json", "mapper.safetensors", "composed_query.json", "README.md"} <= sent.keys()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"image": np.zeros((3, 4, 4)), "text": "a"}, "Image.fromarray"),
        ([{"role": "user", "content": "a"}], "does not support chat-style"),
        ("a photo of [*]", "no reference image"),
    ],
)
def test_refused(model, value, message):
    with pytest.raises((UserError, ValueError), match=message):
        model.encode([value])


def test_without_the_library_one_line_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "context_i2w.search.adapters.sentence_transformers")
    monkeypatch.setitem(sys.modules, "sentence_transformers.base.modality", None)
    with pytest.raises(UserError, match="the extra 'sentence-transformers' brings it"):
        __import__("context_i2w.search.adapters.sentence_transformers")
