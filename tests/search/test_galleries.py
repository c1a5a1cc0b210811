"""Galleries that are no folder: pictures in shards, embeddings in parts, indices that other programs built."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tests.search.test_retriever import draw

from context_i2w.errors import UserError
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.search import parts
from context_i2w.search.galleries import find_files

OPTIONS = EncodingOptions(batch_size=4, workers=0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery") / "photos"
    for number in range(6):
        draw(folder / f"{number // 3}" / f"{number:03d}.{'png' if number % 2 else 'jpg'}", number, size=(90, 70))
    return folder


def write_shard(path: Path, files: list[Path], mode: str = "w") -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for file in files:
            for name, content in ((file.name, file.read_bytes()), (f"{file.stem}.json", b"{}")):
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))


def test_pictures_in_shards_are_indexed_shown_and_found_as_files_are(retriever, photos, tmp_path, monkeypatch):
    for shard in range(2):
        write_shard(tmp_path / "shards" / f"0000{shard}.tar", sorted((photos / str(shard)).iterdir()))
    pattern = str(tmp_path / "shards" / "{00000..00001}.tar")
    packed, plain = (retriever.index(source, tmp_path / "cache", OPTIONS) for source in (pattern, photos))
    assert packed.names == [f"0000{name.replace('/', '.tar/')}" for name in plain.names]
    assert packed.features.tobytes() == plain.features.tobytes()
    for name, other in zip(packed.names, plain.names):
        assert packed.path(name).read_bytes() == plain.path(other).read_bytes()
        assert packed.thumbnail(name) == plain.thumbnail(other)
    name = packed.names[2]
    hits = packed.search(packed.path(name), "a photo of [*] at night", k=5)
    assert name not in [hit.name for hit in hits]
    assert hits[0].path == tmp_path / "shards" / hits[0].name
    write_shard(tmp_path / "shards" / "00001.tar", sorted((photos / "1").iterdir())[:2])
    passed, original = [], type(retriever.clip).encode_image
    monkeypatch.setattr(
        type(retriever.clip), "encode_image", lambda self, x: passed.append(len(x)) or original(self, x)
    )
    assert retriever.index(pattern, tmp_path / "cache", OPTIONS).names == packed.names[:5]
    assert sum(passed) == 2  # the shard that has changed


def test_shards_that_cannot_be_searched_are_named(photos, tmp_path):
    write_shard(tmp_path / "packed.tar", [next(photos.rglob("*.png"))], "w:gz")
    write_shard(tmp_path / "empty.tar", [])
    for source, message in (
        (tmp_path / "none.tar", "no such shards: .*none.tar"),
        (tmp_path / "packed.tar", "packed.tar: not a plain tar"),
        (tmp_path / "empty.tar", "no images in these shards"),
        ("https://example.org/00000.tar", "fetch it first"),
    ):
        with pytest.raises(UserError, match=message):
            find_files(source)


@pytest.fixture
def index(retriever, photos, tmp_path, monkeypatch):
    """Of a folder as people type it, relative to where they are."""
    monkeypatch.chdir(photos.parent)
    return retriever.index(photos.name, tmp_path / "cache", OPTIONS)


@pytest.fixture
def written(index, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROWS", 4)
    index.export(tmp_path / "embeddings", part=7)
    return tmp_path / "embeddings"


def test_embeddings_in_parts_are_read_back_and_searched(retriever, index, written, photos, tmp_path, monkeypatch):
    names = sorted(str(path.relative_to(written)) for path in written.rglob("*.*"))
    assert names == [
        "img_emb/img_emb_00007.npy",
        "img_emb/img_emb_00008.npy",
        "metadata/metadata_00007.parquet",
        "metadata/metadata_00008.parquet",
    ]
    assert np.load(written / names[0]).dtype == np.float16
    monkeypatch.setattr(type(retriever.clip), "encode_image", lambda *_: pytest.fail("encoded"))
    back = retriever.index(written, tmp_path / "cache", OPTIONS)
    assert back.names == [str(photos / name) for name in index.names]
    assert np.abs(back.features - index.features).max() < 1e-3
    assert np.allclose(np.linalg.norm(back.features, axis=1), 1, atol=1e-6)
    monkeypatch.undo()
    reference = photos / index.names[0]
    found, wanted = (one.search(reference, "a photo of [*] at night", k=3) for one in (back, index))
    assert [hit.path for hit in found] == [photos / hit.name for hit in wanted]
    assert back.thumbnail(back.names[1]) == index.thumbnail(index.names[1])


def test_parts_that_do_not_fit_are_named(retriever, written, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = written / "metadata" / "metadata_00007.parquet"
    table = pq.read_table(first)
    other = table.replace_schema_metadata({"clip": "another", "clip_sha256": "0"})
    for content, message in (
        (other, "by 2 CLIPs"),
        (table.slice(1), r"\(4, 64\), not 64 numbers for each of 3"),
        (pa.concat_tables([table.slice(0, 3), table.slice(0, 1)]), "occurs twice"),
        (table.rename_columns(["url"]), "no image_path can be read"),
    ):
        pq.write_table(content, first)
        with pytest.raises(UserError, match=message):
            retriever.index(written, tmp_path / "other", OPTIONS)
    for path in (first, written / "metadata" / "metadata_00008.parquet"):
        pq.write_table(
            other if path == first else pq.read_table(path).replace_schema_metadata(other.schema.metadata), path
        )
    with pytest.raises(UserError, match="by another CLIP than golden"):
        retriever.index(written, tmp_path / "other", OPTIONS)


def rows_of(folder: Path) -> np.ndarray:
    """In the order in which autofaiss reads them."""
    return np.concatenate([np.load(path) for path in sorted((folder / "img_emb").iterdir())]).astype(np.float32)


def test_an_index_that_faiss_built_is_searched(retriever, written, tmp_path):
    faiss = pytest.importorskip("faiss")
    built = faiss.IndexFlatIP(64)
    built.add(rows_of(written))
    faiss.write_index(built, str(tmp_path / "knn.index"))
    check_search(retriever.index(written, tmp_path / "cache", OPTIONS), str(tmp_path / "knn.index"))
    built.add(rows_of(written)[:1])
    faiss.write_index(built, str(tmp_path / "larger.index"))
    (tmp_path / "no.index").write_text("none")
    back = retriever.index(written, tmp_path / "cache", OPTIONS)
    for name, message in (("larger", "7 rows of 64 numbers by inner product; the gallery has 6"), ("no", "can't read")):
        with pytest.raises(UserError, match=message):
            back.approximate(str(tmp_path / f"{name}.index"))


def test_an_index_that_autofaiss_built_is_searched(retriever, written, tmp_path):
    autofaiss, faiss = pytest.importorskip("autofaiss"), pytest.importorskip("faiss")
    built, _ = autofaiss.build_index(
        str(written / "img_emb"),
        save_on_disk=False,
        metric_type="ip",
        max_index_memory_usage="100MB",
        current_memory_available="1GB",
    )
    faiss.write_index(built, str(tmp_path / "knn.index"))
    check_search(retriever.index(written, tmp_path / "cache", OPTIONS), str(tmp_path / "knn.index"))


def check_search(index, path: str) -> None:
    exact = index.search(index.path(index.names[1]), "a photo of [*] at night", k=3)
    assert index.approximate(path) == 1
    assert index.search(index.path(index.names[1]), "a photo of [*] at night", k=3) == exact
    [known] = index.store.folder.glob("features-*.json")
    assert list(json.loads(known.read_text()).values()) == [1]
