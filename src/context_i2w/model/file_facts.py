"""What weights do not say about themselves: activation and transform, as open_clip's tags and files tell them."""

import os
import sys
from pathlib import Path
from typing import Any

import open_clip

from context_i2w.errors import UserError
from context_i2w.files import read_json
from context_i2w.model.backbones import CONFIG, TOY_MODEL, known_name, sizes_by_name
from context_i2w.model.identity import GELU, QUICK_GELU, plain, transform_of
from context_i2w.model.tensor_files import is_torchscript

Facts = dict[str, Any]  # quick_gelu, mean, std, interpolation, resize_mode; what is left out is CLIP's
OPENAI = {"quick_gelu": True}


def tag_configuration(model: str, tag: str | None) -> dict[str, Any] | None:
    """The `configuration` of the CLIP that a tag of open_clip's names; None if it is no tag, or of no known model."""
    try:
        name = known_name(model)
        shipped = name == TOY_MODEL and tag in (None, "toy", "openai")
        facts = {"quick_gelu": False} if shipped else open_clip.get_pretrained_cfg(name, tag or "")
        if not facts:
            return None
        activation = QUICK_GELU if facts.get("quick_gelu") else GELU
        return {"activation": activation} | plain(transform_of(facts, sizes_by_name(name).image_size))
    except UserError:
        return None


def facts_of(path: Path, configuration: dict | None) -> Facts | None:
    """What is known of a file's weights: by who names it, by the configuration beside it, by its format."""
    if configuration:
        return configuration | {"quick_gelu": configuration.get("activation") == QUICK_GELU}
    beside = config_beside(path)
    if beside:
        return dict(beside.get("preprocess_cfg") or {}) | {"quick_gelu": bool(beside["model_cfg"].get("quick_gelu"))}
    return OPENAI if is_torchscript(path) else None


def assumed(path: Path, quick: bool) -> Facts:
    """The last resort, said aloud: tensors do not tell an activation."""
    activation, other = (QUICK_GELU, GELU) if quick else (GELU, QUICK_GELU)
    print(
        f"{path}: the file does not say, and there is no {CONFIG} beside it: assumed {activation} and CLIP's own mean, "
        f"std and centre crop; for {other} or another transform put its {CONFIG} there (OpenAI's, MetaCLIP's and "
        "DFN's weights want QuickGELU: a model's name ending in -quickgelu)",
        file=sys.stderr,
    )
    return {"quick_gelu": quick}


def config_beside(path: Path) -> dict[str, Any] | None:
    """The content of `open_clip_config.json` in the folder of a weights file. Raises UserError if it is damaged."""
    file = path.parent / CONFIG
    remedy = "it is not open_clip's configuration of a model"
    return read_json(file, {"model_cfg": {}}, remedy) if os.path.isfile(file) else None
