"""Finds and reads CLIP's weights: open_clip names and tags, local files, OpenAI's archives, the toy CLIP."""

import contextlib
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor

from context_i2w.errors import UserError
from context_i2w.model.clip import CLIPSizes, FrozenCLIP

TOY_FOLDER = Path(__file__).resolve().parents[3] / "checkpoints" / "toy"
TOY_MODEL = "toy_clip"
HEAD_WIDTH = 64  # of every attention head in OpenAI's models; their files do not say

State = dict[str, Tensor]


def load_clip(
    model: str = "ViT-L-14", pretrained: str | None = "openai", device: str | torch.device = "cpu"
) -> FrozenCLIP:
    """FrozenCLIP by name.

    model: "toy", or any open_clip model with CLIP's towers; `ViT-L/14` is the same as `ViT-L-14`.
    pretrained: one of open_clip's tags for the model, or a local file (safetensors, torch.save, OpenAI's archive);
        None draws random weights. The toy CLIP has its own file.
    Raises UserError for an unknown model or tag, a missing file, or weights of other sizes.
    """
    name = _known_name(model)
    if name == TOY_MODEL and pretrained in (None, "toy", "openai"):
        pretrained = str(TOY_FOLDER / f"{TOY_MODEL}.safetensors")
    if pretrained is None or pretrained in open_clip.list_pretrained_tags_by_model(name):
        network = _create(name, pretrained)
    else:
        network = _create_from_file(name, Path(pretrained))
    return FrozenCLIP(network, name).to(device)


def sizes_by_name(model: str) -> CLIPSizes:
    """Sizes of an open_clip model, from its configuration alone. Raises UserError if it is unknown or has no ViT."""
    config = open_clip.get_model_config(_known_name(model))
    vision, text = config["vision_cfg"], config["text_cfg"]
    if not isinstance(vision.get("layers"), int) or "width" not in text:
        raise UserError(f"--model {model}: needs CLIP's vision transformer and text tower; choose one such as ViT-L/14")
    image_size, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    return CLIPSizes(
        image_size=image_size,
        image_tokens=(image_size // patch) ** 2 + 1,
        vision_width=vision["width"],
        embed_dim=config["embed_dim"],
        text_width=text["width"],
        context_length=text.get("context_length", 77),
        vocabulary=text.get("vocab_size", 49408),
    )


def clip_from_openai_state(state: State, name: str, device: str | torch.device = "cpu") -> FrozenCLIP:
    """FrozenCLIP from tensors under OpenAI's names; all sizes are read off the tensors.

    OpenAI's models use QuickGELU and heads of width 64. Raises UserError if tensors are missing or of odd shapes.
    """
    try:
        vision_width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        context_length, text_width = state["positional_embedding"].shape
        config = {
            "embed_dim": state["text_projection"].shape[1],
            "vision_cfg": {
                "image_size": grid * patch,
                "patch_size": patch,
                "width": vision_width,
                "head_width": HEAD_WIDTH,
                "layers": _count_blocks(state, "visual.transformer.resblocks."),
            },
            "text_cfg": {
                "context_length": context_length,
                "vocab_size": state["token_embedding.weight"].shape[0],
                "width": text_width,
                "heads": max(text_width // HEAD_WIDTH, 1),
                "layers": _count_blocks(state, "transformer.resblocks."),
            },
        }
    except (KeyError, ValueError) as error:
        raise UserError(f"{name}: not a CLIP with a vision transformer in OpenAI's names ({error})") from error
    network = open_clip.CLIP(**config, quick_gelu=True)
    load_state(network, state, name)
    return FrozenCLIP(network, name).to(device)


def load_state(module: torch.nn.Module, state: State, name: str, shown: Callable[[str], str] = str) -> None:
    """Strict loading; a mismatch is one UserError that names tensors as the file does (`shown`) and both shapes."""
    own = module.state_dict()
    faults = [f"{shown(key)}: missing" for key in own.keys() - state.keys()]
    faults += [f"{shown(key)}: unexpected" for key in state.keys() - own.keys()]
    faults += [
        f"{shown(key)}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if faults:
        shown = "; ".join(sorted(faults)[:6]) + ("; …" if len(faults) > 6 else "")
        raise UserError(f"{name}: {len(faults)} tensors do not fit: {shown}")
    module.load_state_dict(state)


def read_state(path: Path) -> State:
    """Tensors of a weights file under their names: safetensors, a torch.save of a state dict, or OpenAI's archive."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file, nor a pretrained tag of this model")
    if path.suffix == ".safetensors":
        return _whole_word_table(load_file(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript archives, which come next
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as first:
        state = _read_archive(path, first)
    state = state.get("state_dict", state)
    return without_module({key: value for key, value in state.items() if isinstance(value, Tensor)})


def without_module(state: State) -> State:
    """The same tensors without the prefix that DistributedDataParallel puts before names."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def without_archive_scalars(state: State) -> State:
    """OpenAI's archives list three numbers among their tensors."""
    return {k: v for k, v in state.items() if k not in ("input_resolution", "context_length", "vocab_size")}


def _known_name(model: str) -> str:
    name = TOY_MODEL if model == "toy" else model.replace("/", "-")
    if name == TOY_MODEL:
        open_clip.add_model_config(TOY_FOLDER / f"{TOY_MODEL}.json")
    if name not in open_clip.list_models():
        raise UserError(f"--model {model}: unknown to open_clip; `open_clip.list_models()` lists the names")
    return name


def _create(name: str, tag: str | None) -> torch.nn.Module:
    try:
        # The tag, not the model's configuration, knows which activation the weights were trained with.
        quick = bool(tag and (open_clip.get_pretrained_cfg(name, tag) or {}).get("quick_gelu"))
        return open_clip.create_model(name, pretrained=tag, force_quick_gelu=quick)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"--model {name} --pretrained {tag}: {str(error).splitlines()[0]}; "
            "give a local file with --pretrained FILE where downloads are not possible"
        ) from error


def _create_from_file(name: str, path: Path) -> torch.nn.Module:
    if not path.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        raise UserError(f"--pretrained {path}: neither a file nor a tag of {name} ({tags or 'it has none'})")
    archived = is_openai_archive(path)
    with _quiet():
        network = open_clip.create_model(name, pretrained=None, force_quick_gelu=archived)
    load_state(network, without_archive_scalars(read_state(path)), str(path))
    return network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warning that the weights are random: they are about to be loaded."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def is_openai_archive(path: Path) -> bool:
    """Whether the file is a TorchScript archive, as OpenAI publishes CLIP."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _read_archive(path: Path, first: Exception) -> State:
    if not is_openai_archive(path):
        raise UserError(f"{path}: not a weights file that loads safely ({str(first).splitlines()[0]})") from first
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path, map_location="cpu").state_dict()


def _whole_word_table(state: State) -> State:
    """A partial word table (`token_embedding.rows`, `.ids`) written out, with NaN for the words it lacks."""
    if "token_embedding.rows" not in state:
        return state
    rows, ids = state.pop("token_embedding.rows"), state.pop("token_embedding.ids")
    table = torch.full((_toy_vocabulary(), rows.shape[1]), float("nan"))
    table[ids.long()] = rows.float()
    return state | {"token_embedding.weight": table}


def _toy_vocabulary() -> int:
    return json.loads((TOY_FOLDER / f"{TOY_MODEL}.json").read_text())["text_cfg"].get("vocab_size", 49408)


def _count_blocks(state: State, prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
