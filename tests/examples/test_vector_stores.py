"""The examples of vector stores find what our own index finds."""

import importlib.util
from pathlib import Path

import pytest
from tests.search.test_retriever import draw

from context_i2w import Retriever

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("library", "example"), [("lancedb", "lancedb_search"), ("qdrant_client", "qdrant_search")])
def test_hits_are_those_of_an_index(library, example, tmp_path):
    pytest.importorskip(library)
    pictures = [str(draw(tmp_path / "photos" / f"p{number}.png", number)) for number in range(12)]
    spec = importlib.util.spec_from_file_location(example, EXAMPLES / f"{example}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.search(pictures, pictures[3], "a photo of [*] at night", tmp_path / "store")
    index = Retriever.load("toy").index(tmp_path / "photos", tmp_path / "cache", thumbnails=False)
    hits = index.search(pictures[3], "a photo of [*] at night", k=5, keep_reference=True)
    assert [path for path, _ in found] == [str(hit.path) for hit in hits]
    assert [similarity for _, similarity in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    again = module.search(pictures, pictures[3], "a photo of [*] at night", tmp_path / "store")
    assert again == found  # made anew
