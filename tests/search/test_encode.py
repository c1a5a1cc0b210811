"""Arrays for vector stores, and a retriever of CLIP alone."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from tests.search.test_retriever import draw

from context_i2w import Retriever
from context_i2w.errors import UserError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [draw(folder / f"p{number}.png", number) for number in range(5)]


def unit(rows):
    return rows.dtype == np.float32 and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_pictures_alone_are_the_rows_of_an_index(retriever, photos, tmp_path):
    index = retriever.index(photos[0].parent, tmp_path)
    rows = retriever.encode([Image.open(photos[0]), *photos[1:]])
    assert unit(rows)
    assert np.allclose(rows, index.features, atol=1e-6)
    assert np.allclose(retriever.encode(photos[2]), rows[2:3], atol=1e-6)


def test_texts_alone_are_as_clip_reads_them(retriever, photos):
    rows = retriever.encode(texts=["a dog on grass", "a cat"])
    assert unit(rows)
    wanted = retriever.query_features([[photos[0]]], ["a dog on grass"], "text")
    assert np.allclose(rows[:1], wanted, atol=1e-6)
    assert np.array_equal(retriever.encode(texts="a cat", methods=["text"])["text"].shape, (1, len(rows[0])))


def test_queries_are_those_of_a_search_many_at_once(retriever, photos):
    """Batches with other numbers of references and placeholders equal their queries one by one, of every method."""
    images = [photos[0], [photos[1], photos[2]], photos[1], photos[3], photos[4]] * 15  # more than go through together
    texts = ["is red", "[*2] beside [*1], again [*2]", "[*] and [*]", "a sketch of [*]", ""] * 15
    methods = ["composed", "image", "text", "image+text", "slerp", "blended", "pdv", "pdv:0.7:1:1:plain"]
    found = retriever.encode(images, texts, methods)
    assert list(found) == methods
    groups = [image if isinstance(image, list) else [image] for image in images]
    for method in methods:
        single = torch.cat([retriever.query_features([groups[n]], [texts[n]], method) for n in range(5)])
        assert unit(found[method])
        assert np.allclose(found[method], np.tile(single.numpy(), (15, 1)), atol=1e-6)
    assert np.array_equal(retriever.encode(images, texts), found["composed"])
    assert np.allclose(retriever.encode([photos[1], photos[2]], texts[1]), found["composed"][1:2], atol=1e-6)
    assert np.allclose(retriever.encode(photos[3], [texts[3]]), found["composed"][3:4], atol=1e-6)


def test_nothing_gives_nothing(retriever):
    width = retriever.clip.sizes.embed_dim
    assert (
        retriever.encode([]).shape == retriever.encode(texts=[]).shape == retriever.encode([], []).shape == (0, width)
    )


@pytest.mark.parametrize(
    ("images", "texts", "methods", "said"),
    [
        (None, None, None, "None: a description is expected"),
        (None, "a [*]", None, "no reference image for [*]"),
        (["x.png"], None, "composed", "composed: a query needs images and texts; images alone have rows of method"),
        (None, ["x"], ["image"], "image: a query needs images and texts; texts alone have rows of method 'text'"),
        (["none.png"], None, None, "none.png: no such file"),
        ([3], None, None, "not a builtins.int"),
        (["x.png"], ["a", "b"], None, "2 descriptions and 1 references"),
        (["x.png"], ["a"], "nonsense", "no method of a query"),
    ],
)
def test_misuse_is_one_line(retriever, images, texts, methods, said):
    with pytest.raises(UserError, match=re.escape(said)) as error:
        retriever.encode(images, texts, methods)
    assert "\n" not in str(error.value)


def test_clip_alone_has_the_methods_that_need_no_mapper(retriever, photos, tmp_path):
    clip = Retriever(retriever.clip)
    for method in ("image", "text", "image+text", "slerp"):
        assert np.array_equal(clip.encode(photos, ["red"] * 5, method), retriever.encode(photos, ["red"] * 5, method))
    index = clip.index(photos[0].parent, tmp_path)
    assert index.search(photos[0], "red") == index.search(photos[0], "red", method="slerp")
    for method in ("composed", "blended"):
        with pytest.raises(UserError, match=r"^composed queries need a mapper.*load a checkpoint with Retriever.load$"):
            index.search(photos[0], "red", method=method)
    with pytest.raises(UserError, match="nothing to share"):
        clip.save_pretrained(tmp_path / "shared")


def test_reprs_say_in_a_line_what_an_object_holds(retriever, photos, tmp_path):
    (photos[0].parent / "broken.png").write_bytes(b"none")
    index = retriever.index(photos[0].parent, tmp_path)
    (photos[0].parent / "broken.png").unlink()
    assert repr(index) == f"Index(5 images of {photos[0].parent}, 1 left out, golden, exact search)"
    assert repr(retriever) == "Retriever(golden, context-i2w, cpu)"
    assert repr(Retriever(retriever.clip)) == "Retriever(golden, no mapper, cpu)"
    assert re.fullmatch(r"FrozenCLIP\(golden, 56 pixels, 64 dimensions, [\d,]+ parameters, cpu\)", repr(retriever.clip))
    assert re.fullmatch(r"ContextI2W\(ContextI2WOptions\(.*hidden=16.*\), [\d,]+ parameters\)", repr(retriever.mapper))


def test_lists_of_files_are_indexed(retriever, photos, tmp_path, monkeypatch):
    """A list, folders in it, a text file of paths; its references do not find themselves either."""
    draw(tmp_path / "other" / "deep" / "x.png", 20)
    index = retriever.index([photos[3], str(photos[1]), tmp_path / "other"], tmp_path / "cache")
    assert sorted(index.path(name) for name in index.names) == sorted(
        [photos[1], photos[3], tmp_path / "other" / "deep" / "x.png"]
    )
    assert {hit.path for hit in index.search(photos[1], "red")} == {photos[3], tmp_path / "other" / "deep" / "x.png"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(f"{photos[0]}\n\nother/deep/x.png\n")
    listed = retriever.index("list.txt", tmp_path / "cache")
    assert len(listed) == 2
    assert repr(listed) == "Index(2 images of list.txt, golden, exact search)"
    assert len(retriever.index(photos[0], tmp_path / "cache")) == 1
    for nothing, said in (([], "an empty list"), ([photos[0], "no.png"], "No such file"), ([3], "not a int")):
        with pytest.raises(UserError, match=said):
            retriever.index(nothing, tmp_path / "cache")


def test_from_clip_takes_open_clips_names(photos):
    clip = Retriever.from_clip("ViT-S-32-alt", None, "cpu")  # random weights: nothing is fetched
    assert clip.clip.name == "ViT-S-32-alt"
    assert clip.encode(photos[:1], "red").shape == (1, 256)
    with pytest.raises(UserError, match="unknown to open_clip"):
        Retriever.from_clip("ViT-nothing")


def test_the_tokeniser_is_not_made_anew_for_each_query(retriever, photos, monkeypatch):
    made = []
    monkeypatch.setattr("open_clip.tokenizer.SimpleTokenizer.__init__", lambda self, *_, **__: made.append(self))
    retriever.encode(photos[:2], ["a photo of [*] at night"] * 2, ["composed", "text"])
    assert made == []
