"""An index made by several processes is to the bit what one process makes, and is gone on with after a kill."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.search.test_retriever import draw

from context_i2w import Retriever
from context_i2w.distributed import joined, launch
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.files import FileState
from context_i2w.model.clip_weights import clip_from_openai_state
from context_i2w.search.journal import Journal

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number in range(9):
        draw(folder / f"p{number}.png", number)
    (folder / "p4.png").write_text("no image")
    return folder


def indexed(folder: str, cache: str) -> tuple[list[str], np.ndarray, dict[str, str]]:
    state = load_file(GOLDEN / "clip_small_weights.safetensors")
    clip = clip_from_openai_state({name: tensor.float() for name, tensor in state.items()}, "golden")
    with joined("cpu") as process:
        index = Retriever(clip, None).index(folder, cache, EncodingOptions(2, 0, process=process))
        everyone = process.everyone((index.names, index.features.tobytes(), index.broken))
    assert all(one == everyone[0] for one in everyone)
    return index.names, np.array(index.features), index.broken


def test_two_processes_make_the_index_of_one(photos, tmp_path):
    names, features, broken = indexed(str(photos), str(tmp_path / "one"))
    draw(photos / "p8.png", 8)  # as it was, at another time: encoded anew in the second index's update
    two = launch(indexed, 2, str(photos), str(tmp_path / "two"))
    assert two[0] == names
    assert two[1].tobytes() == features.tobytes()
    assert two[2] == broken
    assert list(broken) == ["p4.png"]
    files = {path.name for path in (tmp_path / "two").rglob("*") if path.is_file() and path.suffix != ".jpg"}
    assert {name.split("-")[0].split(".")[0] for name in files} == {"index", "features", "lock"}
    thumbnails = [sorted(path.name for path in (tmp_path / way).rglob("*.jpg")) for way in ("one", "two")]
    assert len(thumbnails[1]) == 8


def test_what_killed_processes_wrote_is_taken_over(tmp_path):
    states = {f"{number}.jpg": FileState(number, number) for number in range(4)}
    rows = np.random.default_rng(0).random((4, 3), np.float32)
    whole, part = Journal(tmp_path, 3), Journal(tmp_path, 3, "1")
    whole.add(["0.jpg"], states, rows[:1])
    part.add(["2.jpg", "1.jpg"], states, rows[[2, 1]])
    part.add_broken({"3.jpg": "no image"}, states)
    with open(tmp_path / "pending-1.jsonl", "a") as file:
        file.write('{"name": "3.jp')
    whole = Journal(tmp_path, 3)
    whole.absorb()
    assert not list(tmp_path.glob("pending-*"))
    for journal in (whole, Journal(tmp_path, 3)):
        assert sorted(journal.rows) == ["0.jpg", "1.jpg", "2.jpg"]
        assert journal.broken == {"3.jpg": (FileState(3, 3), "no image")}
        for name, (state, number) in journal.rows.items():
            assert state == states[name]
            assert np.array_equal(journal.array()[number], rows[int(name[0])])
