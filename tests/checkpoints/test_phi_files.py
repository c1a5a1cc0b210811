"""Files of SEARLE and LinCIR, and Pic2Word without its CLIP: what is read off them, and what is refused."""

import json
import zipfile
from pathlib import Path, PosixPath

import pytest
import torch

import eval_retrieval
from context_i2w.checkpoints.files import read_checkpoint
from context_i2w.errors import UserError
from context_i2w.model.mappers import Phi, Pic2Word
from context_i2w.search.retriever import Retriever

GOLDEN = Path(__file__).parents[1] / "golden"
SEARLE, CLIP = GOLDEN / "phi" / "searle_phi_last.pt", str(GOLDEN / "clip_small_weights.safetensors")


def phi_state(width: int, hidden: int, out: int) -> dict[str, torch.Tensor]:
    shapes = {"0": (hidden, width), "3": (hidden, hidden), "6": (out, hidden)}
    weights = {f"layers.{n}.weight": torch.zeros(shape) for n, shape in shapes.items()}
    return weights | {f"layers.{n}.bias": torch.zeros(shape[0]) for n, shape in shapes.items()}


def test_phi_alone_and_phi_beside_a_path(tmp_path):
    content = torch.load(SEARLE, weights_only=True)
    for name, more in (("alone", {}), ("saver", {"epoch": 3, "training_path": PosixPath("/data/run"), "scaler": {}})):
        torch.save({"Phi": content["Phi"], **more}, tmp_path / f"{name}.pt")
        checkpoint = read_checkpoint(tmp_path / f"{name}.pt")
        clip = checkpoint.load_clip(pretrained=CLIP)
        mapper = checkpoint.build_mapper(clip.sizes)
        assert type(mapper) is Phi
        assert torch.equal(mapper.layers[3].weight, content["Phi"]["layers.3.weight"])


@pytest.mark.parametrize(
    ("width", "settings", "clip", "protocol"),
    [
        (768, None, ("ViT-L-14", "openai"), None),
        (512, {"clip_model_name": "ViT-B/32", "phi_dropout": 0.3}, ("ViT-B-32", "openai"), "searle"),
        (1024, None, ("ViT-H-14", "laion2b_s32b_b79k"), "lincir"),
        (1280, None, ("ViT-bigG-14", "laion2b_s39b_b160k"), "lincir"),
    ],
)
def test_backbone_and_family_as_far_as_the_file_tells(tmp_path, width, settings, clip, protocol):
    torch.save({"Phi": phi_state(width, 2 * width, 8)}, tmp_path / "phi_last.pt")
    if settings:
        (tmp_path / "hyperparameters.json").write_text(json.dumps(settings))
    checkpoint = read_checkpoint(tmp_path / "phi_last.pt")
    assert (checkpoint.clip.model, checkpoint.clip.pretrained) == clip
    assert checkpoint.protocol == protocol
    assert checkpoint.options.hidden == 2
    assert checkpoint.options.dropout == (0.3 if settings else 0.5)


def test_a_backbone_that_no_file_tells_is_asked_for():
    with pytest.raises(UserError, match=r"does not say which CLIP .* --pretrained FILE, or --model"):
        read_checkpoint(SEARLE).load_clip()


def test_another_width_of_hidden_layer_and_damaged_parts_are_named(tmp_path):
    torch.save({"Phi": phi_state(8, 12, 8)}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="hidden width 12 is no multiple"):
        read_checkpoint(tmp_path / "odd.pt")
    torch.save({"Phi": {"layers.1.weight": torch.zeros(2, 2)}}, tmp_path / "lacks.pt")
    with pytest.raises(UserError, match=r"Phi lacks 'layers.0.weight'"):
        read_checkpoint(tmp_path / "lacks.pt")
    (tmp_path / "hyperparameters.json").write_text("[1]")
    torch.save({"Phi": phi_state(8, 16, 8)}, tmp_path / "beside.pt")
    with pytest.raises(UserError, match=r"hyperparameters.json: it is \[1\], an object is expected"):
        read_checkpoint(tmp_path / "beside.pt")
    with zipfile.ZipFile(SEARLE) as file:
        assert file.testzip() is None


def test_pic2word_without_its_clip_takes_one_from_a_file(golden_clip, tmp_path):
    mapper = Pic2Word(golden_clip.sizes).eval()
    named = {
        f"module.layers.{n}.0.{part}": getattr(mapper.mlp.hidden[n], part)
        for n in (0, 1)
        for part in ("weight", "bias")
    }
    named |= {f"module.fc_out.{part}": getattr(mapper.mlp.output, part) for part in ("weight", "bias")}
    torch.save({"state_dict_img2text": named}, tmp_path / "pic2word_large.pt")
    retriever = Retriever.load(tmp_path / "pic2word_large.pt", pretrained=CLIP, device="cpu")
    assert retriever.clip.weights_hash == golden_clip.weights_hash
    assert torch.equal(retriever.mapper.mlp.output.weight, mapper.mlp.output.weight)


def test_the_command_says_that_the_family_is_open_and_names_the_protocol(golden_data, capsys):
    arguments = ["--resume", SEARLE, "--pretrained", CLIP, "--eval-mode", "cirr", "--methods", "composed,image"]
    arguments += ["--data-root", golden_data, "--device", "cpu", "--workers", "0"]
    eval_retrieval.main(list(map(str, arguments)))
    shown = capsys.readouterr().out
    assert "does not say whether it is SEARLE's or LinCIR's: give --protocol; ours is taken" in shown
    assert "protocol ours; " in shown
    assert "1 texts too long for CLIP lost their end" in shown
