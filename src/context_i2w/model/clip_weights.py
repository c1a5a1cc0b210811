"""Finds and reads CLIP's weights: open_clip names and tags, local files, OpenAI's archives, the toy CLIP."""

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import open_clip
import torch

from context_i2w.errors import UserError
from context_i2w.files import shown
from context_i2w.model.backbones import (
    SCHEMAS,
    TOY_FOLDER,
    TOY_MODEL,
    check_supported,
    known_name,
    sizes_by_name,
    sizes_of,
    supported_config,
)
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.file_facts import OPENAI, Facts, assumed, config_beside, facts_of
from context_i2w.model.fit_state import as_open_clip, load_state
from context_i2w.model.identity import GELU, transform_of
from context_i2w.model.tensor_files import State, first_line, read_state

__all__ = ["TOY_FOLDER", "TOY_MODEL", "State", "clip_from_openai_state", "load_clip", "load_state", "read_state"]
__all__ += ["sizes_by_name"]

HEAD_WIDTH = 64  # of every attention head in OpenAI's models; their files do not say
DEFAULT_MODEL = "ViT-L-14"


def load_clip(
    model: str | None = None,
    pretrained: str | None = "openai",
    device: str | torch.device = "cpu",
    configuration: dict[str, Any] | None = None,
) -> FrozenCLIP:
    """FrozenCLIP by name.

    model: "toy", or any open_clip model with CLIP's towers; `ViT-L/14` is the same as `ViT-L-14`. None: the model
        that a weights file says it is, else ViT-L-14. `hf-hub:OWNER/NAME` and `local-dir:PATH` bring their weights.
    pretrained: one of open_clip's tags for the model, or a local file (safetensors, torch.save, OpenAI's archive);
        None draws random weights. The toy CLIP has its own file.
    configuration: of `CLIPIdentity`, what is known of a file's weights. Without one, the `open_clip_config.json`
        beside the file counts; without that a line on stderr says what was assumed.
    Raises UserError, before anything is fetched, for an unknown model or tag, a missing file or a model that is no
    CLIP of ours; later for weights of other sizes.
    """
    of_file = pretrained and os.path.isfile(pretrained) and model == Path(pretrained).stem
    if of_file and model not in ("toy", *open_clip.list_models()):
        model = None  # the name that a file of sizes unknown to open_clip got below
    name = known_name(model or DEFAULT_MODEL)
    config = supported_config(name)
    is_tag = pretrained is None or open_clip.is_pretrained_cfg(name, pretrained)
    path = Path(pretrained) if pretrained and not is_tag and os.path.isfile(pretrained) else None
    if model is None and path:
        return _from_file_alone(path, configuration).to(device)
    if name == TOY_MODEL and pretrained in (None, "toy", "openai"):
        path, configuration = TOY_FOLDER / f"{TOY_MODEL}.safetensors", {"activation": GELU}
    if path:
        return _from_file(config, name, path, configuration).to(device)
    if name.startswith(SCHEMAS):
        pretrained = None
    elif not is_tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        raise UserError(
            f"--pretrained {shown(str(pretrained), 300)}: neither a file nor a tag of {name} ({tags or 'it has none'})"
        )
    return FrozenCLIP(_create(name, pretrained), name).to(device)


def clip_from_openai_state(state: State, name: str, device: str | torch.device = "cpu") -> FrozenCLIP:
    """FrozenCLIP from tensors under OpenAI's names; all sizes are read off the tensors.

    OpenAI's models use QuickGELU and heads of width 64. Raises UserError if tensors are missing or of odd shapes.
    """
    network = _build(_config_of(state, name), OPENAI, name)
    load_state(network, state, name)
    return FrozenCLIP(network, name).to(device)


def _create(name: str, tag: str | None) -> torch.nn.Module:
    disabled = logging.root.manager.disable
    try:
        # The tag, not the model's configuration, knows which activation the weights were trained with.
        quick = bool(tag and open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
        given = bool(tag) or name.startswith(SCHEMAS)
        logging.disable(max(disabled, logging.ERROR))  # libraries log each retry and then the error, each twice
        return open_clip.create_model(name, pretrained=tag, force_quick_gelu=quick, require_pretrained=given)
    except Exception as error:  # the hub client and damaged files have an error class for each fault
        raise UserError(
            f"--model {name} --pretrained {tag}: can't be fetched or read ({shown(first_line(error), 200)}); without "
            "network fetch the weights elsewhere (as OpenAI's ViT-L-14.pt) and give the file: --pretrained FILE"
        ) from None
    finally:
        logging.disable(disabled)


def _from_file(config: dict, name: str, path: Path, configuration: dict | None) -> FrozenCLIP:
    facts = facts_of(path, configuration) or assumed(path, bool(config.get("quick_gelu")))
    network = _build(config, facts, str(path))
    load_state(network, as_open_clip(read_state(path), network, str(path)), str(path))
    return FrozenCLIP(network, name)


def _from_file_alone(path: Path, configuration: dict | None) -> FrozenCLIP:
    """A file that comes without a model's name: the configuration beside it tells, else the sizes of its tensors."""
    beside = config_beside(path)
    if beside:
        name, config = f"local-dir:{path.parent}", beside["model_cfg"]
        check_supported(config, name)
    else:
        name, config = _named_like(_config_of(read_state(path), str(path)), path.stem)
        if open_clip.is_pretrained_cfg(name, "openai") or name == path.stem:
            config["quick_gelu"] = True  # OpenAI's sizes, or tensors of unknown sizes under OpenAI's names
    return _from_file(config, name, path, configuration)


def _build(config: dict[str, Any], facts: Facts, name: str) -> torch.nn.Module:
    """The network of a configuration, its weights random yet, its transform that of the facts."""
    config = {**config, "quick_gelu": facts["quick_gelu"]}
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    try:
        network = kind(**config)
        transform = transform_of(facts, config["vision_cfg"].get("image_size", 224))
    except Exception as error:  # values of a stranger's configuration that only the network refuses
        raise UserError(f"{name}: no CLIP can be built of these sizes and values ({first_line(error)})") from None
    preprocess = transform._asdict() | {"fill_color": transform.fill}
    open_clip.set_model_preprocess_cfg(network, preprocess)
    return network


def _config_of(state: State, name: str) -> dict[str, Any]:
    """open_clip's configuration of tensors under OpenAI's names. Raises UserError."""
    try:
        vision_width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        context_length, text_width = state["positional_embedding"].shape
        return {
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
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(
            f"{name}: not a CLIP with a vision transformer in OpenAI's names ({first_line(error)})"
        ) from None


def _named_like(config: dict[str, Any], otherwise: str) -> tuple[str, dict[str, Any]]:
    """open_clip's first model of the same sizes, which knows the width of heads too; else as the tensors say."""

    def sizes(config: dict) -> tuple:
        return sizes_of(config), config["vision_cfg"]["layers"], config["text_cfg"]["layers"]

    for name in open_clip.list_models():
        with contextlib.suppress(UserError):
            if sizes(known := supported_config(name)) == sizes(config):
                return name, known
    return otherwise, config


def _count_blocks(state: State, prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
