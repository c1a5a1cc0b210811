"""The shipped tiny CLIP: knows its world, refuses other words; its file holds the used words only."""

import json

import pytest
import torch
from safetensors.torch import load_file

from context_i2w.errors import UserError
from context_i2w.model.clip_weights import TOY_FOLDER, load_clip, read_state
from context_i2w.model.prompts import PLACEHOLDER_ID, Tokenizer, template
from context_i2w.toy_world.vocabulary import REAL
from toy_clip.accuracy import Probe, measure, single_scenes
from toy_clip.pretrain import Recipe
from toy_clip.pretraining import pretrain
from toy_clip.prompt_bank import banks
from toy_clip.tiny_clip import WordTable, encode_rows, new_tiny_clip, save_tiny_clip


@pytest.fixture(scope="module")
def clip():
    return load_clip("toy")


def test_recognises_kinds_and_attributes(clip):
    accuracy = measure(Probe(clip), 70)
    assert accuracy["kind, cut out on white"] > 90
    assert min(accuracy[name] for name in ("colour", "scene", "domain")) > 90
    assert min(value for name, value in accuracy.items() if name.startswith("kind")) > 75


def test_refuses_words_it_does_not_know(clip):
    with pytest.raises(UserError, match="zebra"):
        clip.encode_text(Tokenizer()(["a photo of a zebra"]))


def test_knows_the_placeholder(clip):
    ids = Tokenizer()([template("a photo of [*]")])
    assert (ids == PLACEHOLDER_ID).any()
    assert clip.encode_text(ids).isfinite().all()


def test_file_holds_only_used_words():
    file = TOY_FOLDER / "toy_clip.safetensors"
    state = load_file(file)
    assert file.stat().st_size < 16e6
    assert state["token_embedding.ids"].tolist() == WordTable().ids.tolist()
    assert state["token_embedding.rows"].shape[0] == len(WordTable())
    assert "token_embedding.weight" not in state


def test_saved_and_read_again_it_says_the_same(tmp_path):
    """A text through the small table while training, and through the frozen CLIP that reads the file."""
    torch.manual_seed(0)
    table = WordTable()
    config = json.loads((TOY_FOLDER / "toy_clip.json").read_text())
    model = new_tiny_clip(config, table).eval()
    save_tiny_clip(model, table, tmp_path / "tiny.safetensors")
    ids = Tokenizer()(["a photo of a red car", "a striped dress on sand"])
    read = load_clip("toy", str(tmp_path / "tiny.safetensors"))
    with torch.no_grad():
        wanted = encode_rows(model.half().float(), table.rows(ids))
    torch.testing.assert_close(read.encode_text(ids), wanted, rtol=1e-4, atol=1e-5)
    assert read_state(tmp_path / "tiny.safetensors")["token_embedding.weight"].isnan().any()


def test_probe_scenes_show_every_kind_and_are_drawn_once():
    scenes = single_scenes(REAL, 28)
    assert len({scene.kinds() for scene in scenes}) == 14
    assert len(set(scenes)) == 28
    assert all(bank.prompts for bank in banks())


def test_pretraining_runs_in_small(tmp_path):
    """Two steps of the real script, both halves of its curriculum, into a file that loads."""
    config = json.loads((TOY_FOLDER / "toy_clip.json").read_text())
    pretrain(Recipe(steps=2, images=96, captions=1, batch=16), config, tmp_path)
    log = (tmp_path / "pretrain.log").read_text()
    assert "step 2: contrastive" in log
    assert load_clip("toy", str(tmp_path / "toy_clip.safetensors")).sizes.vision_width == 128
