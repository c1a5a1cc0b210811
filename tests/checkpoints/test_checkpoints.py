"""Checkpoint files: ours and the published ones; safe loading; errors that name what does not fit."""

import os

import numpy as np
import pytest
import torch

from conftest import relative
from context_i2w.checkpoints.files import CLIPReference, pack_mapper, read_checkpoint, save_atomically
from context_i2w.checkpoints.published import published_name
from context_i2w.errors import UserError
from context_i2w.model.clip import CLIPSizes, ImageFeatures
from context_i2w.model.mappers import ContextI2W, Pic2Word


def published_file(path, clip_state, mapper_state, prefix="module.", **more):
    named = lambda state: {prefix + name: tensor for name, tensor in state.items()}  # noqa: E731
    content = {
        "epoch": 30,
        "name": "x",
        "state_dict": named(clip_state),
        "state_dict_img2text": named(mapper_state),
    }
    torch.save(content | {"optimizer": {"param_groups": [{"lr": np.float64(1e-5)}]}} | more, path)
    return path


def test_published_context_i2w_loads_whole(tmp_path, golden_clip_state, golden_mapper_state, golden_mapper_tensors):
    path = published_file(tmp_path / "best.pt", golden_clip_state, golden_mapper_state)
    checkpoint = read_checkpoint(path)
    assert checkpoint.mapper_name == "context-i2w"
    clip = checkpoint.load_clip()
    mapper = checkpoint.build_mapper(clip.sizes)
    image = ImageFeatures(torch.zeros(5, 64), golden_mapper_tensors["input.x"])
    assert relative(mapper(golden_mapper_tensors["input.c"], image), golden_mapper_tensors["output"]) < 5e-6


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_pic2word_is_told_apart(tmp_path, golden_clip_state, golden_clip, prefix):
    mapper = Pic2Word(golden_clip.sizes)
    state = {published_name(name): tensor for name, tensor in mapper.state_dict().items()}
    assert sorted(state)[0] == "fc_out.bias"
    checkpoint = read_checkpoint(published_file(tmp_path / "p.pt", golden_clip_state, state, prefix))
    assert checkpoint.mapper_name == "pic2word"
    image = ImageFeatures(torch.randn(2, 64), None)
    assert torch.equal(checkpoint.build_mapper(golden_clip.sizes)(None, image), mapper.eval()(None, image))


def test_half_precision_and_archive_numbers_are_read(tmp_path, golden_clip_state, golden_mapper_state):
    state = {name: tensor.half() for name, tensor in golden_clip_state.items()}
    state |= {
        "input_resolution": torch.tensor(56),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    clip = read_checkpoint(published_file(tmp_path / "h.pt", state, golden_mapper_state)).load_clip()
    assert clip.logit_scale.dtype == torch.float32


def test_a_model_that_contradicts_the_file_is_an_error(tmp_path, golden_clip_state, golden_mapper_state):
    checkpoint = read_checkpoint(published_file(tmp_path / "b.pt", golden_clip_state, golden_mapper_state))
    with pytest.raises(UserError, match="vision_width 128 in the file, 1024 in ViT-L/14"):
        checkpoint.load_clip("ViT-L/14")


def test_a_mapper_of_another_clip_names_tensors_and_both_shapes(tmp_path, golden_clip_state, golden_mapper_state):
    checkpoint = read_checkpoint(published_file(tmp_path / "b.pt", golden_clip_state, golden_mapper_state))
    with pytest.raises(UserError, match=r"VT_Extractor.latents: \(4, 128\) in the file, \(4, 32\) in the model"):
        checkpoint.build_mapper(CLIPSizes(56, 17, 32, 64, 64, 77, 49408))


def test_a_missing_tensor_is_named(tmp_path, golden_clip_state, golden_mapper_state, golden_clip):
    state = {name: tensor for name, tensor in golden_mapper_state.items() if name != "proj"}
    checkpoint = read_checkpoint(published_file(tmp_path / "b.pt", golden_clip_state, state))
    with pytest.raises(UserError, match="proj: missing"):
        checkpoint.build_mapper(golden_clip.sizes)


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict_img2text": Evil()}, "does not load safely"),
        ([1, 2], "a list, not a checkpoint"),
        ({"model": 1}, "not a checkpoint of a mapper"),
        ({"state_dict_img2text": {"other": torch.zeros(1)}}, "neither Context-I2W nor Pic2Word"),
    ],
)
def test_other_files_are_one_clear_error(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "x.pt")


def test_no_file_and_garbage_are_errors(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "none.pt")
    (tmp_path / "x.pt").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="does not load safely"):
        read_checkpoint(tmp_path / "x.pt")


def test_ours_comes_back(tmp_path, golden_clip):
    mapper = ContextI2W(golden_clip.sizes).eval()
    reference = CLIPReference("toy", "toy", "abc")
    save_atomically(pack_mapper("context-i2w", mapper, reference, 7), tmp_path / "ours.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["ours.pt"]
    checkpoint = read_checkpoint(tmp_path / "ours.pt")
    assert (checkpoint.step, checkpoint.clip) == (7, reference)
    built = checkpoint.build_mapper(golden_clip.sizes)
    for a, b in zip(mapper.parameters(), built.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="trained with another CLIP"):
        checkpoint.load_clip()
