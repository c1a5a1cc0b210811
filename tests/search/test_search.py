"""Exact search against a full sort; approximate search; export; the store."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from context_i2w.errors import UserError
from context_i2w.files import FileState
from context_i2w.search import approximate
from context_i2w.search import nearest as exact
from context_i2w.search.approximate import ApproximateOptions
from context_i2w.search.export import export
from context_i2w.search.files import files_of_folder, files_of_list
from context_i2w.search.store import Store

CASES = Path(__file__).parents[1] / "data" / "cases"


def unit(count, width, seed, duplicates=0):
    rows = normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)
    rows[count - duplicates :] = rows[:duplicates]
    return rows


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 70), st.integers(0, 99), st.booleans())
def test_exact_search_is_a_full_sort(count, width, k, seed, tied):
    gallery, queries = unit(count, width, seed, count // 2), unit(5, width, seed + 1)
    if tied:  # coarse values, so that many similarities are equal or nearly so
        gallery = normalize(gallery.round(), dim=-1).nan_to_num()
    indices, scores = exact.nearest(queries, gallery.numpy(), k)
    everything = (queries.double() @ gallery.double().T).float()
    order = everything.argsort(dim=1, descending=True, stable=True)[:, :k]
    assert torch.equal(indices, order)
    assert torch.equal(scores, everything.gather(1, order))


def test_nothing_to_search():
    indices, scores = exact.nearest(torch.empty(0, 4), unit(3, 4, 0).numpy(), 2)
    assert indices.shape == scores.shape == (0, 2)
    assert exact.nearest(unit(2, 4, 0), np.empty((0, 4), np.float32), 5)[0].shape == (2, 0)


FACTORIES = [
    ("Flat", "", 1.0),
    ("HNSW16", "efSearch=64", 0.9),
    ("IVF16,Flat", "nprobe=16", 1.0),
    ("IVF16,PQ8x4", "nprobe=16", 0.8),
]


@pytest.mark.parametrize(("factory", "parameters", "least"), FACTORIES)
def test_recall_of_approximate_search(factory, parameters, least):
    pytest.importorskip("faiss", reason="approximate search needs faiss-cpu")
    features = unit(2000, 16, 0).numpy()
    options = ApproximateOptions(factory, parameters)
    index = approximate.build(features, options)
    found = approximate.recall(index, features, approximate.sample_queries(features, options))
    assert least - 1e-9 <= found <= 1


def test_recall_is_counted_right():
    class Half:
        def search(self, queries, count):
            indices = exact.nearest(torch.from_numpy(queries), FEATURES, count)[0]
            indices[:, ::2] = -1
            return np.zeros(indices.shape, np.float32), indices.numpy()

    FEATURES = unit(50, 8, 0).numpy()
    assert approximate.recall(Half(), FEATURES, unit(7, 8, 1), candidates=1) == 0.5


def test_candidates_are_ranked_exactly():
    """An index that proposes everything gives the exact order, ties included; one that proposes nothing, nothing."""

    class Proposing:
        def __init__(self, found):
            self.found = found

        def search(self, queries, count):
            return None, np.tile(self.found[:count], (len(queries), 1))

    features, queries = unit(40, 8, 0, duplicates=15).numpy(), unit(70, 8, 1)
    found, scores = approximate.search(Proposing(np.random.default_rng(0).permutation(40)), features, queries, 12)
    exact_found, exact_scores = exact.nearest(queries, features, 12)
    assert torch.equal(found, exact_found)
    assert torch.equal(scores, exact_scores)
    assert (approximate.search(Proposing(np.full(40, -1)), features, queries, 3)[0] == -1).all()


@pytest.mark.parametrize(("factory", "parameters"), [("Nonsense", ""), ("IVF4,PQ5", ""), ("Flat", "what=1")])
def test_what_faiss_refuses_is_one_line(factory, parameters):
    pytest.importorskip("faiss", reason="approximate search needs faiss-cpu")
    with pytest.raises(UserError, match="FAISS refuses") as caught:
        approximate.build(unit(500, 16, 0).numpy(), ApproximateOptions(factory, parameters))
    assert "\n" not in str(caught.value)


def test_without_faiss_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        approximate.build(unit(5, 4, 0).numpy(), ApproximateOptions("Flat"))


def test_export_to_parquet_and_npy(tmp_path, monkeypatch):
    monkeypatch.setattr("context_i2w.search.export.BLOCK", 3)
    names, features = [f"ä {i}.jpg" for i in range(8)], unit(8, 5, 0).numpy()
    [path] = export(tmp_path / "x" / "f.parquet", names, features, {"clip": "golden"})
    table = pq.read_table(path)
    assert table["path"].to_pylist() == names
    assert np.array_equal(np.array(table["feature"].to_pylist(), np.float32), features)
    assert table.schema.metadata[b"clip"] == b"golden"
    matrix, beside = export(tmp_path / "f.npy", names, features, {"clip": "golden"})
    assert np.array_equal(np.load(matrix), features)
    assert json.loads(beside.read_text()) == {"clip": "golden", "paths": names}
    with pytest.raises(UserError, match=r"\.parquet or \.npy"):
        export(tmp_path / "f.csv", names, features, {})


def test_export_of_names_that_are_no_utf_8(tmp_path):
    names, features = ["a.jpg", os.fsdecode(b"\xff.jpg")], unit(2, 5, 0).numpy()
    for path in ("f.parquet", "parts"):
        with pytest.raises(UserError, match=r"udcff\.jpg: Parquet holds names in UTF-8 alone"):
            export(tmp_path / path, names, features, {})
    _, beside = export(tmp_path / "f.npy", names, features, {})
    assert json.loads(beside.read_text())["paths"] == names
    folder = tmp_path / os.fsdecode(b"\xff")
    for path in ("f.parquet", "parts"):
        assert all(file.is_file() for file in export(folder / path, names[:1], features[:1], {}))


STEPS = st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_store_always_holds_what_the_folder_has(tmp_path_factory, steps):
    """Any sequence of folders (name -> version of its content); version 3 can't be read."""
    folder = tmp_path_factory.mktemp("store")
    for step in steps:
        store = Store(folder, 2)
        wanted = {name: FileState(version, 0) for name, version in sorted(step.items())}
        with store.update() as journal:
            for name in store.missing(wanted, journal):
                if step[name] == 3:
                    journal.add_broken({name: "broken"}, wanted)
                else:
                    journal.add([name], wanted, np.array([[ord(name), step[name]]], np.float32))
            store.finish(wanted, journal)
        again = Store(folder, 2)
        rows = {name: [ord(name), version] for name, version in step.items() if version != 3}
        assert dict(zip(again.contents.rows, again.features().tolist())) == rows
        assert {name for name in step if step[name] == 3} == set(again.contents.broken)


def test_only_one_process_updates_a_store(tmp_path):
    with Store(tmp_path, 2).update(), pytest.raises(UserError, match="another process"), Store(tmp_path, 2).update():
        pass


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"lock: can't be written .*name another place"),
        Store(tmp_path / "file", 2).update(),
    ):
        pass


def filled(folder):
    """A store of three rows; what it wants."""
    wanted = {name: FileState(1, 0) for name in "abc"}
    store = Store(folder, 2)
    with store.update() as journal:
        journal.add("abc", wanted, np.arange(6, dtype=np.float32).reshape(3, 2))
        store.finish(wanted, journal)
    return wanted


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_store_is_made_anew_or_whole(tmp_path_factory, data):
    """Any byte of any file changed, or the file cut: never other rows without a word."""
    folder = tmp_path_factory.mktemp("store")
    wanted = filled(folder)
    path = next(folder.glob(data.draw(st.sampled_from(["index.json", "features-*"]))))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, 1000)) % len(content)
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        content = content[:place]
    path.write_bytes(content)
    store = Store(folder, 2)
    assert not store.contents.rows or store.features().tolist() == [[0, 1], [2, 3], [4, 5]]
    assert store.contents.rows in ({}, wanted)


def test_a_store_of_an_earlier_version_is_read_with_a_line(tmp_path, capsys):
    wanted = filled(tmp_path)
    content = json.loads((tmp_path / "index.json").read_text())
    del content["own"], content["checksum"]
    (tmp_path / "index.json").write_text(json.dumps(content))
    assert Store(tmp_path, 2).is_complete(wanted)
    assert "without checksums" in capsys.readouterr().err


def test_a_whole_store_needs_no_writing_and_leftovers_go(tmp_path):
    wanted = filled(tmp_path)
    store = Store(tmp_path, 2)
    assert store.is_complete(wanted)
    (tmp_path / ".features-0123.npy.part").write_bytes(b"x")  # of a killed process, as is its journal
    (tmp_path / "features-0123.npy").write_bytes(b"x")
    (tmp_path / "pending.jsonl").touch()
    assert not store.is_complete(wanted)
    with store.update() as journal:
        store.finish(wanted, journal)
    assert sorted(os.listdir(tmp_path)) == sorted(["index.json", "lock", store.contents.features])


@pytest.mark.parametrize(
    "line",
    [
        CASES / "pending.jsonl",
        b'{"name": ["a"], "state": [1, 0], "sum": 1}\n',
        b'{"name": "a", "state": [1, 0], "sum": 1}\n',
        b'{"name": "a", "state": [1, 0]}\n',
        b"[" * 100_000 + b"\n",
        b'{"name": "a", "state": [1, 0], "broken": 3}\n',
    ],
)
def test_a_damaged_journal_is_cut_off(tmp_path, line):
    (tmp_path / "pending.jsonl").write_bytes(line if isinstance(line, bytes) else line.read_bytes())
    (tmp_path / "pending.f32").write_bytes(bytes(16))
    with Store(tmp_path, 2).update() as journal:
        assert (journal.rows, journal.broken) == ({}, {})
    assert (tmp_path / "pending.jsonl").read_bytes() == b""


def test_a_damaged_row_of_a_journal_is_encoded_again(tmp_path):
    wanted = {name: FileState(1, 0) for name in "ab"}
    with Store(tmp_path, 2).update() as journal:
        journal.add("ab", wanted, np.ones((2, 2), np.float32))
    rows = bytearray((tmp_path / "pending.f32").read_bytes())
    rows[9] ^= 1
    (tmp_path / "pending.f32").write_bytes(rows)
    with Store(tmp_path, 2).update() as journal:
        assert list(journal.rows) == ["a"]


def test_a_damaged_faiss_index_is_made_anew(tmp_path, capsys):
    pytest.importorskip("faiss")
    rows, options = unit(8, 5, 0).numpy(), approximate.ApproximateOptions("Flat")
    path = tmp_path / "f.faiss"
    assert approximate.load(path, options) is None
    approximate.save(approximate.build(rows, options), path)
    assert approximate.load(path, options).ntotal == 8
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    assert approximate.load(path, options) is None
    assert "damaged" in capsys.readouterr().err


def test_lists_of_files(tmp_path):
    for name in ("a/x.png", "b/y.jpg", "b/z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    files = files_of_list([tmp_path / "b" / "y.jpg", tmp_path / "a" / "x.png", tmp_path / "a" / "x.png"], "coco")
    assert (files.root, list(files.states)) == (tmp_path, ["a/x.png", "b/y.jpg"])
    assert list(files_of_folder(tmp_path).states) == list(files.states)
    assert files.states["a/x.png"].size == 2
    with pytest.raises(UserError, match="No such file"):
        files_of_list([tmp_path / "none.png"], "coco")
