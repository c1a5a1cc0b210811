"""Weights in files: what they are read as, what is known or assumed of them, and that nothing in them runs."""

import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from conftest import relative
from context_i2w.checkpoints.files import CLIPReference, pack_mapper, read_checkpoint, save_atomically
from context_i2w.errors import UserError
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.clip_weights import load_clip, sizes_by_name
from context_i2w.model.identity import OPENAI_SIZES, CLIPIdentity, clip_transform
from context_i2w.model.mappers import Pic2Word, Pic2WordOptions
from context_i2w.model.prompts import Tokenizer
from context_i2w.model.tensor_files import is_torchscript, load_safely, read_state, read_torchscript

FILES = Path(__file__).parent / "files"
IDS = Tokenizer()(["a red dress", "two dogs on grass"])
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
SQUASHED = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A model that open_clip knows, its wider sister, and a tag that wants QuickGELU and squashed images."""
    wider = CONFIG | {"vision_cfg": CONFIG["vision_cfg"] | {"image_size": 64}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", CONFIG)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-64", wider)
    facts = SQUASHED | {"quick_gelu": True, "url": "", "hf_hub": "nobody/nothing/"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"theirs": facts})


def network(quick=False, **more):
    torch.manual_seed(0)
    return open_clip.CLIP(**CONFIG, quick_gelu=quick, **more)


@pytest.fixture
def file(tmp_path):
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_a_checkpoint_that_names_a_tag_gives_a_file_the_tags_configuration(tmp_path, file, monkeypatch):
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: str(file))
    original = load_clip("tiny", "theirs")
    mapper = Pic2Word(original.sizes, Pic2WordOptions(hidden=8))
    for reference in (
        CLIPReference("tiny", "theirs", original.weights_hash),  # as older checkpoints have it
        CLIPReference.of(original, "tiny", "gone.safetensors"),
    ):
        save_atomically(pack_mapper("pic2word", mapper, reference, 1), tmp_path / "m.pt")
        clip = read_checkpoint(tmp_path / "m.pt").load_clip(None, str(file))
        assert clip.identity == original.identity
        assert (clip.identity.activation, clip.transform.resize_mode) == ("QuickGELU", "squash")
        assert torch.equal(clip.encode_text(IDS), original.encode_text(IDS))


def test_the_same_tensors_under_another_activation_are_another_clip(tmp_path, file, capsys):
    plain = load_clip("tiny", str(file))
    assert "assumed GELU and CLIP's own mean" in capsys.readouterr().err
    quick = FrozenCLIP(network(quick=True), "tiny")
    assert plain.weights_hash == quick.weights_hash
    assert plain.identity.hash == plain.weights_hash != quick.identity.hash
    mapper = Pic2Word(quick.sizes, Pic2WordOptions(hidden=8))
    save_atomically(pack_mapper("pic2word", mapper, CLIPReference.of(quick, "tiny", None), 1), tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    assert checkpoint.belongs_to(quick)
    assert not checkpoint.belongs_to(plain)
    save_atomically(pack_mapper("pic2word", mapper, CLIPReference.of(plain, "tiny", None), 1), tmp_path / "m.pt")
    assert not read_checkpoint(tmp_path / "m.pt").belongs_to(quick)


def test_the_configuration_beside_a_file_is_read(tmp_path, file, capsys):
    config = {"model_cfg": CONFIG | {"quick_gelu": True}, "preprocess_cfg": SQUASHED}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    for model in ("tiny", None):
        clip = load_clip(model, str(file))
        assert clip.identity.activation == "QuickGELU"
        assert clip.transform == (32, (0.5,) * 3, (0.5,) * 3, "bilinear", "squash", 0)
    assert load_clip(f"local-dir:{tmp_path}").identity == clip.identity
    assert capsys.readouterr().err == ""
    (tmp_path / "open_clip_config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"open_clip_config.json: not JSON"):
        load_clip("tiny", str(file))


def test_sizes_are_read_off_the_tensors_where_no_model_is_named(file, golden_clip_state, tmp_path, capsys):
    clip = load_clip(pretrained=str(file))
    assert (clip.name, clip.identity) == ("tiny", load_clip("tiny", str(file)).identity)
    save_file(golden_clip_state, tmp_path / "golden.safetensors")
    capsys.readouterr()
    golden = load_clip(pretrained=str(tmp_path / "golden.safetensors"))
    assert load_clip("golden", str(tmp_path / "golden.safetensors")).identity == golden.identity
    assert (golden.name, golden.sizes.image_size, golden.identity.activation) == ("golden", 56, "QuickGELU")
    assert "assumed QuickGELU" in capsys.readouterr().err


def test_openais_configurations_keep_their_hash():
    """Keys of caches made before there were identities: OpenAI's own models and the toy CLIP."""
    for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"):
        sizes = sizes_by_name(name)
        widths = (sizes.image_size, sizes.image_tokens, sizes.vision_width, sizes.embed_dim, sizes.text_width)
        assert widths in OPENAI_SIZES
    toy = load_clip("toy")
    assert toy.identity.hash == toy.weights_hash
    quick = CLIPIdentity("w", "QuickGELU", clip_transform(224), 77, openai_sizes=True)
    assert quick.hash == "w"
    others = [
        replace(quick, activation="GELU"),
        replace(quick, openai_sizes=False),
        replace(quick, transform=quick.transform._replace(resize_mode="squash")),
        replace(quick, transform=quick.transform._replace(mean=(0.5, 0.5, 0.5))),
    ]
    assert len({quick.hash, *(other.hash for other in others)}) == 5
    assert replace(quick, activation="GELU", openai_sizes=False).hash == "w"


def odd_states():
    state = network().state_dict()
    yield "logit_bias", state | {"logit_bias": torch.zeros(1)}
    yield "logit_scale of shape [1]", state | {"logit_scale": state["logit_scale"].reshape(1)}
    yield "position_ids", state | {"text.transformer.embeddings.position_ids": torch.arange(77)}
    yield "module.", {f"module.{name}": tensor for name, tensor in state.items()}
    yield "half", {name: tensor.half().float() for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("kind", "state"), list(odd_states()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_states_that_open_clip_loads(kind, state, tmp_path):
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, tmp_path / "w.pt")
    clip = load_clip("tiny", str(tmp_path / "w.pt"))
    assert relative(clip.encode_text(IDS), FrozenCLIP(network(), "x").encode_text(IDS)) < 1e-3


def test_position_tables_are_resized_as_open_clip_does(file, capsys):
    clip = load_clip("tiny-64", str(file))
    assert "visual.positional_embedding resized from 5 to 17 positions" in capsys.readouterr().err
    grid = network().visual.positional_embedding.data[1:].reshape(1, 2, 2, 64).permute(0, 3, 1, 2)
    wanted = interpolate(grid, (4, 4), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(16, 64)
    assert torch.equal(clip.visual.positional_embedding[1:], wanted)
    theirs = open_clip.create_model("tiny-64", pretrained=str(file))
    assert torch.equal(clip.visual.positional_embedding, theirs.visual.positional_embedding)


def test_a_training_checkpoint_with_a_numpy_learning_rate_is_read():
    assert read_state(FILES / "openclip_training_numpy_lr.pt").keys() == {"logit_scale"}


def test_no_code_of_an_archive_runs(tmp_path, monkeypatch):
    """Loaded by torch.jit.load this one writes a file into the working directory."""
    monkeypatch.chdir(tmp_path)
    archive = FILES / "runs_code.torchscript.pt"
    assert is_torchscript(archive)
    with pytest.raises(UserError, match="tensors under their names"):
        load_clip("tiny", str(archive))
    with pytest.raises(UserError, match="does not load safely"):
        load_safely(archive)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_openais_archives_load_with_quickgelu(tmp_path, capsys):
    """A TorchScript archive under OpenAI's names, with the three numbers that OpenAI's have; nothing is assumed."""
    module = network(quick=True)
    module.forward = module.encode_image
    for name, value in {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}.items():
        module.__dict__.pop(name, None)
        module.register_buffer(name, torch.tensor(value))
    torch.jit.trace(module, torch.zeros(1, 3, 32, 32)).save(tmp_path / "ViT-T-16.pt")
    assert "input_resolution" in read_state(tmp_path / "ViT-T-16.pt")
    for model in ("tiny", None):
        clip = load_clip(model, str(tmp_path / "ViT-T-16.pt"))
        assert clip.identity == FrozenCLIP(network(quick=True), "x").identity
    assert capsys.readouterr().err == ""


class Parts(torch.nn.Module):
    """Slices, buffers, sequences, lists of numbers: what an archive can hold."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.part = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4)[1:, ::2])
        self.register_buffer("count", torch.arange(3))
        self.inner = torch.nn.Sequential(torch.nn.LayerNorm(2), torch.nn.Sequential(torch.nn.Linear(1, 1)))
        self.numbers = [1, 2]

    def forward(self, x):
        return self.linear(self.inner[0](x)) + self.part.sum() + self.count + self.numbers[0]


@pytest.mark.parametrize("made", ["script", "trace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.filterwarnings("ignore")
def test_archives_are_read_as_torch_reads_them(tmp_path, made, dtype):
    module = Parts().to(dtype)
    module = torch.jit.script(module) if made == "script" else torch.jit.trace(module, torch.ones(1, 2, dtype=dtype))
    module.save(tmp_path / "a.pt")
    ours, theirs = read_torchscript(tmp_path / "a.pt"), module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs)


def test_a_damaged_archive_is_one_line(tmp_path):
    content = bytearray((FILES / "runs_code.torchscript.pt").read_bytes())
    for place in range(0, len(content), 7):
        damaged = bytes(content[:place]) + bytes([content[place] ^ 0xFF]) + bytes(content[place + 1 :])
        (tmp_path / "a.pt").write_bytes(damaged)
        with pytest.raises(UserError) as error:
            read_state(tmp_path / "a.pt")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.touch(), "an empty file"),
        (
            lambda path: path.write_bytes((FILES / "lfs_pointer.safetensors").read_bytes()),
            "a Git LFS pointer.*git lfs pull",
        ),
        (lambda path: path.write_bytes(b"x" * 99), "can't be read as safetensors"),
        (lambda path: save_file({"other": torch.zeros(1)}, path), "tensors do not fit"),
        (lambda path: save_file({"logit_scale": torch.zeros(1, dtype=torch.int8)}, path), "tensors do not fit"),
        (
            lambda path: save_file(network().state_dict() | {"ln_final.bias": torch.full((64,), float("nan"))}, path),
            "ln_final.bias holds NaN or infinite values",
        ),
    ],
)
def test_files_that_are_no_weights_say_why(tmp_path, make, message):
    make(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        load_clip("tiny", str(tmp_path / "w.safetensors"))
