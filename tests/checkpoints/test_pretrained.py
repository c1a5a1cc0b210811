"""Mappers as folders to share: what is written, read back, and refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoints.test_checkpoints import published_file

import share_mapper
from context_i2w import Retriever
from context_i2w.checkpoints import shared as pretrained
from context_i2w.checkpoints.files import CLIPReference, pack_mapper, read_checkpoint, save_atomically
from context_i2w.checkpoints.shared import clip_reference, from_pretrained, save_pretrained
from context_i2w.errors import UserError
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.mappers import ContextI2W, ContextI2WOptions, Pic2Word

SMALL = ContextI2WOptions(queries=2, depth=1, heads=2, head_width=8, hidden=16)
REFERENCE = CLIPReference("ViT-L-14", "openai", "ab" * 32)


@pytest.fixture
def saved(tmp_path, golden_clip):
    mapper = ContextI2W(golden_clip.sizes, SMALL)
    return mapper, save_pretrained(tmp_path / "shared", mapper, REFERENCE, golden_clip.sizes, step=1200)


def test_round_trip(saved, golden_clip):
    mapper, folder = saved
    found = from_pretrained(folder)
    assert (found.mapper_name, found.options, found.step, found.clip) == ("context-i2w", SMALL, 1200, REFERENCE)
    again = found.build_mapper(golden_clip.sizes)
    assert all(torch.equal(a, b) for a, b in zip(mapper.state_dict().values(), again.state_dict().values()))
    assert not again.training


def test_clip_is_named_and_not_copied(saved):
    mapper, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "mapper.safetensors"]
    assert load_file(folder / "mapper.safetensors").keys() == mapper.state_dict().keys()
    assert json.loads((folder / "config.json").read_text())["clip"]["weights_hash"] == "ab" * 32


def test_model_card_has_front_matter_and_the_commands(saved):
    card = (saved[1] / "README.md").read_text()
    front, text = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    assert "base_model: openai/clip-vit-large-patch14" in front
    assert "trained for 1,200 steps" in text
    assert 'Retriever.load("shared")' in text


def test_pic2word_too(tmp_path, golden_clip):
    mapper = Pic2Word(golden_clip.sizes)
    found = from_pretrained(save_pretrained(tmp_path / "p", mapper, REFERENCE, golden_clip.sizes))
    assert found.mapper_name == "pic2word"
    assert "an unknown number of steps" in (tmp_path / "p" / "README.md").read_text()


def test_retriever_saves_what_it_loads(tmp_path, golden_clip, monkeypatch):
    """The CLIP named in the folder is loaded by that name, and checked."""
    monkeypatch.setattr("context_i2w.checkpoints.files.load_clip", lambda *_: golden_clip)
    mapper = ContextI2W(golden_clip.sizes, SMALL)
    reference = CLIPReference("tiny", "file.safetensors", golden_clip.weights_hash)
    first = save_pretrained(tmp_path / "first", mapper, reference, golden_clip.sizes, 7)
    second = Retriever.load(first, device="cpu").save_pretrained(tmp_path / "second")
    assert (first / "config.json").read_text() == (second / "config.json").read_text()
    assert (first / "mapper.safetensors").read_bytes() == (second / "mapper.safetensors").read_bytes()
    other = CLIPReference("tiny", "file.safetensors", "0" * 64)
    save_pretrained(first, mapper, other, golden_clip.sizes)
    with pytest.raises(UserError, match="trained with another CLIP"):
        Retriever.load(first, device="cpu")
    with pytest.raises(UserError, match="made of parts"):
        Retriever(golden_clip, mapper).save_pretrained(tmp_path / "third")


def test_a_published_checkpoint_names_openais_model_of_its_sizes(
    tmp_path, golden_clip, golden_clip_state, golden_mapper_state, monkeypatch
):
    checkpoint = read_checkpoint(published_file(tmp_path / "p.pt", golden_clip_state, golden_mapper_state))
    with pytest.raises(UserError, match="sizes of no OpenAI model"):
        clip_reference(checkpoint, golden_clip)
    monkeypatch.setattr(pretrained, "sizes_by_name", lambda name: golden_clip.sizes if name == "ViT-L-14" else None)
    assert clip_reference(checkpoint, golden_clip) == CLIPReference("ViT-L-14", "openai", golden_clip.weights_hash)


def test_weights_of_clip_beside_the_mapper_are_found(saved, golden_clip):
    mapper, folder = saved
    save_pretrained(folder, mapper, CLIPReference("toy", "clip.safetensors", "00"), golden_clip.sizes)
    (folder / "clip.safetensors").touch()
    assert from_pretrained(folder).clip.weights(folder) == str(folder / "clip.safetensors")


def test_script_shares_a_run(tmp_path, golden_clip, monkeypatch, capsys):
    monkeypatch.setattr("context_i2w.checkpoints.files.load_clip", lambda *_: golden_clip)
    mapper = ContextI2W(golden_clip.sizes, SMALL)
    content = pack_mapper("context-i2w", mapper, CLIPReference("tiny", "/home/me/clip.pt", None), 9)
    save_atomically(content, tmp_path / "run" / "checkpoints" / "last.pt")
    share_mapper.main(["--resume", str(tmp_path / "run"), "--output", str(tmp_path / "shared")])
    found = from_pretrained(tmp_path / "shared")
    assert (found.step, found.clip) == (9, CLIPReference("tiny", "clip.pt", golden_clip.weights_hash))
    assert f"wrote {tmp_path / 'shared'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "not JSON"),
        ("config.json", "{}", "format is not"),
        ("config.json", '{"format": "context-i2w/1"}', "lacks 'mapper'"),
        ("mapper.safetensors", "no tensors", "can't be read as safetensors"),
    ],
)
def test_damaged_folders(saved, name, content, message):
    (saved[1] / name).write_text(content)
    with pytest.raises(UserError, match=message):
        from_pretrained(saved[1])


def test_a_mapper_that_does_not_fit_names_tensors(saved, tmp_path):
    config = json.loads((saved[1] / "config.json").read_text())
    config["mapper"]["options"]["hidden"] = 17
    (saved[1] / "config.json").write_text(json.dumps(config))
    found = from_pretrained(saved[1])
    from context_i2w.model.clip import CLIPSizes

    with pytest.raises(UserError, match=r"16.* in the file, .*17.* in the model"):
        found.build_mapper(CLIPSizes(**config["sizes"]))
    config["mapper"]["options"]["odd"] = 1
    (saved[1] / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no option odd"):
        from_pretrained(saved[1])


def test_hub_download_and_upload(saved, monkeypatch, golden_clip):
    """The hub client's two calls, answered here."""
    import huggingface_hub

    mapper, folder = saved
    calls = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, **_: calls.append(("get", repo)) or str(folder)
    )

    class Hub:
        def create_repo(self, repo, exist_ok):
            calls.append(("create", repo))

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            calls.append(("put", repo_id, sorted(allow_patterns)))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert from_pretrained("someone/context-i2w").step == 1200
    save_pretrained(folder, mapper, REFERENCE, golden_clip.sizes, push_to="someone/new")
    files = ["README.md", "config.json", "mapper.safetensors"]
    assert calls == [("get", "someone/context-i2w"), ("create", "someone/new"), ("put", "someone/new", files)]
    assert 'Retriever.load("someone/new")' in (folder / "README.md").read_text()


def test_hub_without_network_is_one_line(monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise OSError("no route\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=r"^someone/x: no such folder, and the hub says: no route$"):
        from_pretrained("someone/x")


def test_a_folder_that_cannot_be_written(tmp_path, golden_clip: FrozenCLIP):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        save_pretrained(tmp_path / "file", Pic2Word(golden_clip.sizes), REFERENCE, golden_clip.sizes)
