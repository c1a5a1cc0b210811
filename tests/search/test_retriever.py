"""The Python API: loading, an index that follows its folder, prompts with placeholders, hits."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tests.checkpoints.test_checkpoints import published_file
from torch.nn.functional import normalize

from context_i2w import Retriever
from context_i2w.checkpoints.files import CLIPReference, pack_mapper, save_atomically
from context_i2w.checkpoints.find import find_checkpoint, shipped_checkpoints
from context_i2w.errors import UserError
from context_i2w.model.clip import ImageFeatures
from context_i2w.model.clip_weights import TOY_FOLDER, clip_from_openai_state
from context_i2w.model.images import ImageSource, Preparation
from context_i2w.model.mappers import ContextI2W, ContextI2WOptions
from context_i2w.model.prompts import Tokenizer, fill, numbered_template, readable, template
from context_i2w.search.pictures import PicturePreparation

SMALL = ContextI2WOptions(queries=2, depth=1, heads=2, head_width=8, hidden=16, gate=0.5)


def draw(path, seed, size=(70, 60), mode="RGB"):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize(size, Image.Resampling.NEAREST).convert(mode).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number in range(6):
        draw(folder / f"p{number}.png", number)
    draw(folder / "deeper" / "q.JPG", 99)
    draw(folder / ".hidden" / "h.png", 98)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def index_of(retriever, tmp_path):
    return lambda folder: retriever.index(folder, cache=tmp_path / "cache")


def test_top_level_import_is_lazy():
    code = "import sys, context_i2w as c; assert 'torch' not in sys.modules; c.Retriever; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": "src"})


def test_hits_are_those_of_plain_arithmetic(retriever, index_of, photos):
    """The whole way again by hand: preparation, CLIP, mapper, composition, cosine."""
    index = index_of(photos)
    clip = retriever.clip
    prepare = Preparation(clip.sizes.image_size, clip.image_mean, clip.image_std)
    features = lambda names: clip.encode_image(torch.stack([prepare(ImageSource(str(photos / n))) for n in names]))  # noqa: E731
    gallery = normalize(features(index.names).embedding, dim=-1)
    seen = features(["p0.png"])
    ids = Tokenizer()([template("a sketch of [*]")])
    with torch.no_grad():
        composed = clip.compose(ids, retriever.mapper(clip.encode_text(ids), seen))
    scores = (normalize(composed, dim=-1) @ gallery.T)[0]
    hits = index.search(photos / "p0.png", "a sketch of [*]", k=3, keep_reference=True)
    assert [hit.name for hit in hits] == [index.names[i] for i in scores.argsort(descending=True)[:3]]
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert hits[0].score == pytest.approx(float(scores.max()), abs=1e-5)
    assert hits[0].path == photos / hits[0].name


def test_folder_is_searched_through_and_the_reference_left_out(index_of, photos):
    index = index_of(photos)
    assert index.names == ["deeper/q.JPG", *(f"p{n}.png" for n in range(6))]
    found = [hit.name for hit in index.search(photos / "p1.png", "", method="image", k=50)]
    assert "p1.png" not in found
    assert len(found) == 6
    assert index.search(photos / "p1.png", "", method="image", keep_reference=True)[0].name == "p1.png"


def test_index_follows_its_folder(retriever, index_of, photos, monkeypatch):
    encoded = []
    original = type(retriever.clip).encode_image
    monkeypatch.setattr(
        type(retriever.clip), "encode_image", lambda clip, x: encoded.append(len(x)) or original(clip, x)
    )
    before = index_of(photos)
    assert sum(encoded) == 7
    again = index_of(photos)
    assert sum(encoded) == 7  # nothing has changed
    assert np.array_equal(before.features, again.features)
    draw(photos / "p2.png", 50, size=(80, 60))
    draw(photos / "new.png", 51)
    (photos / "p3.png").unlink()
    after = index_of(photos)
    assert sum(encoded) == 9
    assert after.names == ["deeper/q.JPG", "new.png", *(f"p{n}.png" for n in (0, 1, 2, 4, 5))]
    row = {name: after.features[i] for i, name in enumerate(after.names)}
    assert np.array_equal(row["p4.png"], before.features[before.names.index("p4.png")])
    assert not np.allclose(row["p2.png"], before.features[before.names.index("p2.png")])
    assert isinstance(after.features, np.memmap)
    assert len(list(after.store.folder.glob("features-*"))) == 1


def test_interrupted_indexing_goes_on_where_it_was(retriever, index_of, photos, monkeypatch):
    from context_i2w.evaluation.features import EncodingOptions

    original, calls = type(retriever.clip).encode_image, []

    def breaking(clip, x):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(clip, x)

    monkeypatch.setattr(type(retriever.clip), "encode_image", breaking)
    cache, options = photos.parent / "cache", EncodingOptions(batch_size=2, workers=0)
    with pytest.raises(KeyboardInterrupt):
        retriever.index(photos, cache, options)
    [journal] = cache.rglob("pending.f32")
    with open(journal, "ab") as file:  # a row whose line a kill cut off
        file.write(b"\0" * 40)
    with open(journal.with_suffix(".jsonl"), "a") as file:
        file.write('{"name": "p3')
    calls.clear()
    calls += [0] * 3
    index = retriever.index(photos, cache, options)
    assert sum(calls) == 3
    monkeypatch.undo()
    fresh = retriever.index(photos, photos.parent / "other", options)
    assert np.array_equal(index.features, fresh.features)


def test_broken_files_are_reported_not_fatal(index_of, photos, capsys):
    (photos / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    (photos / "empty.png").touch()
    index = index_of(photos)
    assert set(index.broken) == {"bad.jpg", "empty.png"}
    assert len(index) == 7
    assert "2 files left out" in capsys.readouterr().err
    draw(photos / "bad.jpg", 3)
    assert set(index_of(photos).broken) == {"empty.png"}


def test_folders_that_cannot_be_indexed(index_of, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        index_of(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no images"):
        index_of(tmp_path / "none")
    (tmp_path / "none" / "x.png").touch()
    with pytest.raises(UserError, match="none of its 1 images can be read"):
        index_of(tmp_path / "none")


def test_a_damaged_cache_is_made_anew(index_of, photos):
    index = index_of(photos)
    (index.store.folder / "index.json").write_text("{")
    assert np.array_equal(index_of(photos).features, index.features)


def test_description_without_placeholder_gets_the_papers_template(retriever, photos):
    reference = [[photos / "p0.png"]]
    plain = retriever.query_features(reference, ["is red"])
    assert torch.equal(plain, retriever.query_features(reference, ["a photo of [*] , is red"]))
    assert torch.equal(
        retriever.query_features(reference, [" "]), retriever.query_features(reference, ["a photo of [*]"])
    )


def test_several_references_each_at_its_number(retriever, photos):
    first, second = photos / "p0.png", photos / "p1.png"
    both = retriever.query_features([[first, second]], ["[*1] next to [*2]"])
    swapped = retriever.query_features([[second, first]], ["[*2] next to [*1]"])
    assert torch.equal(both, swapped)
    assert not torch.allclose(both, retriever.query_features([[second, first]], ["[*1] next to [*2]"]))
    same = retriever.query_features([[first, first]], ["[*1] next to [*2]"])
    assert torch.allclose(same, retriever.query_features([[first]], ["[*] next to [*]"]), atol=1e-6)


def test_a_batch_equals_its_queries_one_by_one(index_of, photos):
    index = index_of(photos)
    references = [photos / "p0.png", [photos / "p1.png", photos / "p2.png"], photos / "p1.png"]
    texts = ["a sketch of [*]", "[*1] and [*2]", "in blue"]
    for method in ("composed", "image", "text", "image+text", "blended", "pdv", "pdv:0.8:1:1:plain"):
        batch = index.search(references, texts, k=4, method=method)
        single = [index.search(reference, text, k=4, method=method) for reference, text in zip(references, texts)]
        assert [[hit.name for hit in hits] for hits in batch] == [[hit.name for hit in hits] for hits in single]
    assert len(index.search(photos / "p0.png", texts[::2], k=2)) == 2


@pytest.mark.parametrize(
    ("count", "text", "message"),
    [
        (2, "red", "write where they go"),
        (2, "[*] and [*]", "number every placeholder"),
        (2, "[*1] only", "there are 2 references"),
        (1, "[*2]", "asks for \\[\\*2\\]"),
        (1, "[*0]", "asks for \\[\\*0\\]"),
        (1, "[*] and [*1]", "number every"),
        (1, "word " * 90 + "[*]", "too long"),
    ],
)
def test_placeholders_that_do_not_fit_are_one_clear_error(retriever, photos, count, text, message):
    with pytest.raises(UserError, match=message):
        retriever.query_features([[photos / "p0.png", photos / "p1.png"][:count]], [text])


def test_numbered_template():
    text, numbers = numbered_template("[*2], [*] and <|REPLACE|> on [*12]")
    assert numbers == (2, None, None, 12)
    assert readable(text) == "[*], [*] and [*] on [*]"


def test_a_batch_of_another_length_and_a_missing_reference(index_of, photos):
    index = index_of(photos)
    with pytest.raises(UserError, match="2 descriptions and 1 references"):
        index.search([photos / "p0.png"], ["a", "b"])
    with pytest.raises(UserError, match=r"reference .*none.png: no such file"):
        index.search(photos / "none.png", "red")
    with pytest.raises(UserError, match="k=0"):
        index.search(photos / "p0.png", "red", k=0)
    with pytest.raises(UserError, match="no method of a query"):
        index.search(photos / "p0.png", "red", method="nonsense")


def test_baseline_rows(retriever, photos):
    reference, text = [[photos / "p0.png"]], ["a sketch of [*]"]
    image, words, both = (retriever.query_features(reference, text, name) for name in ("image", "text", "image+text"))
    assert torch.allclose(both, normalize(image + words, dim=-1))
    clip = retriever.clip
    expected = normalize(clip.encode_text(Tokenizer()(["a sketch of"])), dim=-1)
    assert torch.allclose(words, expected, atol=1e-6)


def test_pictures_are_seen_upright_and_on_white(tmp_path, golden_clip):
    prepare = PicturePreparation(56, golden_clip.image_mean, golden_clip.image_std)
    path = draw(tmp_path / "a.png", 1)
    plain = Preparation(56, golden_clip.image_mean, golden_clip.image_std)
    assert torch.equal(prepare(path), plain(ImageSource(str(path))))
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned a quarter
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(prepare(tmp_path / "turned.png"), prepare(path))
    clear = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    assert torch.equal(prepare(clear), prepare(Image.new("RGB", (60, 60), "white")))


def test_approximate_index_is_kept_and_measured(retriever, tmp_path, capsys):
    pytest.importorskip("faiss", reason="approximate search needs faiss-cpu")
    for number in range(30):
        draw(tmp_path / "many" / f"{number}.png", number)
    index = retriever.index(tmp_path / "many", tmp_path / "cache")
    reference = tmp_path / "many" / "3.png"
    exact = index.search(reference, "red", k=5)
    assert index.approximate("IVF2,Flat", "nprobe=2") == index.recall == 1
    assert "recall@10 against exact search 1.0000" in capsys.readouterr().out
    assert index.search(reference, "red", k=5) == exact
    assert index.search(reference, "red", k=5, exact=True) == exact
    again = retriever.index(tmp_path / "many", tmp_path / "cache")
    written = [path.stat().st_mtime_ns for path in sorted(index.store.folder.glob("*.faiss"))]
    again.approximate("IVF2,Flat", "nprobe=2")
    assert [path.stat().st_mtime_ns for path in sorted(index.store.folder.glob("*.faiss"))] == written
    assert not capsys.readouterr().out  # known from the first time
    draw(tmp_path / "many" / "new.png", 99)
    changed = retriever.index(tmp_path / "many", tmp_path / "cache")
    assert not list(index.store.folder.glob("*.faiss"))  # its rows are no longer the gallery's
    changed.approximate("Flat")
    assert len(changed.search(reference, "red", k=40)) == 30


@pytest.fixture
def checkpoint(tmp_path, golden_clip_state, golden_mapper_state):
    return published_file(tmp_path / "published.pt", golden_clip_state, golden_mapper_state)


def test_load_takes_published_files(checkpoint, golden_mapper, golden_mapper_tensors):
    retriever = Retriever.load(checkpoint, device="cpu")
    assert retriever.mapper_name == "context-i2w"
    image = ImageFeatures(torch.zeros(5, 64), golden_mapper_tensors["input.x"])
    condition = golden_mapper_tensors["input.c"]
    assert torch.equal(retriever.mapper(condition, image), golden_mapper(condition, image))


def test_load_takes_run_folders_and_says_what_is_wrong(tmp_path, golden_clip):
    mapper = ContextI2W(golden_clip.sizes, SMALL)
    content = pack_mapper("context-i2w", mapper, CLIPReference("no-such-model", None), 3)
    save_atomically(content, tmp_path / "run" / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match="no-such-model"):  # found, and then its CLIP is not
        Retriever.load(tmp_path / "run")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        Retriever.load(tmp_path / "bare")
    with pytest.raises(UserError, match="no such checkpoint file"):
        Retriever.load("no/such/folder")


def test_words_outside_a_small_vocabulary_are_named(photos, golden_clip_state):
    """The toy CLIP lacks most words: rows that its file leaves out are NaN."""
    state = dict(golden_clip_state)
    table = state["token_embedding.weight"].clone()
    table[Tokenizer().encode("giraffe")] = float("nan")
    clip = clip_from_openai_state(state | {"token_embedding.weight": table}, "small")
    small = Retriever(clip, ContextI2W(clip.sizes, SMALL))
    assert small.query_features([[photos / "p0.png"]], ["red"]).isfinite().all()
    with pytest.raises(UserError, match="small does not know 'giraffe'"):
        small.query_features([[photos / "p0.png"]], ["with a giraffe"])


def test_a_second_mapper_shares_the_clip(checkpoint, tmp_path, golden_clip_state, golden_mapper_state):
    first = Retriever.load(checkpoint, device="cpu")
    assert first.beside(checkpoint).clip is first.clip
    state = {name: tensor + 1 if name == "logit_scale" else tensor for name, tensor in golden_clip_state.items()}
    other = published_file(tmp_path / "other.pt", state, golden_mapper_state)
    with pytest.raises(UserError, match="another CLIP"):
        first.beside(other)


def test_the_shipped_checkpoints_load_by_name_and_folder():
    assert [path.name for path in shipped_checkpoints()] == ["context-i2w", "pic2word"]
    for name in (
        "toy",
        "toy/context-i2w",
        "checkpoints/toy",
        "checkpoints/toy/context-i2w",
        TOY_FOLDER / "context-i2w",
    ):
        assert find_checkpoint(name).path.samefile(TOY_FOLDER / "context-i2w" / "mapper.safetensors")
    retriever = Retriever.load("toy", device="cpu")
    assert retriever.beside("toy/pic2word").mapper_name == "pic2word"
    with pytest.raises(UserError, match=r"toy/other: no mapper .* there are toy/context-i2w, .*toy/pic2word"):
        Retriever.load("toy/other")
    with pytest.raises(UserError, match=r"^device nowhere: .*; leave it out, or give cpu$"):
        Retriever.load("toy", device="nowhere")


def test_prompts_are_the_benchmarks(retriever, photos):
    """The template here and the one of the CIRR benchmark give the same text."""
    from context_i2w.search.query import parse_query

    caption = "is <|replace|> {odd}"
    assert parse_query("is {odd}", 1).text == fill("a photo of [*] , {caption}", caption="is {odd}")
    assert fill("{caption}", caption=caption) == caption


@pytest.mark.parametrize(
    ("reference", "description", "k", "said"),
    [
        (None, "is blue", 5, "not a builtins.NoneType"),
        (np.zeros((8, 8, 3), np.uint8), "is blue", 5, "Image.fromarray"),
        (["p0.png", None], "[*1] and [*2]", 5, "not a builtins.NoneType"),
        ("p0.png", None, 5, "None: a description is expected"),
        ("p0.png", 5, 5, "5: a description is expected"),
        ("p0.png", ["is blue", 3], 5, "a description is expected"),
        ("p0.png", "is blue", 2.5, "k=2.5"),
        ("p0.png", "is blue", True, "k=True"),
        ("p0.png", "is blue", None, "k=None"),
        ("p0.png", "is blue", 0, "k=0"),
        ("a\0b", "is blue", 5, "reference "),
        ("", "is blue", 5, "reference "),
        (float("nan"), "is blue", 5, "not a builtins.float"),
    ],
)
def test_misuse_is_one_line(index_of, photos, reference, description, k, said):
    reference = photos / reference if isinstance(reference, str) and reference == "p0.png" else reference
    with pytest.raises(UserError, match=re.escape(said)) as error:
        index_of(photos).search(reference, description, k)
    assert "\n" not in str(error.value)


def test_numpy_counts_and_no_descriptions_are_fine(index_of, photos):
    index = index_of(photos)
    assert len(index.search(photos / "p0.png", "is blue", np.int64(3))) == 3
    assert index.search(photos / "p0.png", []) == []


def test_the_toy_clip_warns_before_it_indexes_photographs(photos, tmp_path, capsys):
    toy = Retriever.load("toy", device="cpu")
    toy.index(photos, tmp_path / "cache")
    assert capsys.readouterr().err.count("the toy CLIP knows drawn pictures") == 1
    toy.index(photos, tmp_path / "cache")  # nothing is encoded
    assert "toy CLIP" not in capsys.readouterr().err
    (photos.parent / "toy_world.json").write_text("{}")
    toy.index(photos, tmp_path / "other")
    assert "toy CLIP" not in capsys.readouterr().err
