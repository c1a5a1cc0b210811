"""What weights do not say about themselves: activation and transform, as open_clip's tags and files tell them."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import open_clip

from context_i2w.errors import UserError
from context_i2w.model.backbones import CONFIG, TOY_MODEL, known_name, sizes_by_name
from context_i2w.model.identity import GELU, QUICK_GELU, plain, transform_of
from context_i2w.model.tensor_files import first_line, is_torchscript

Facts = dict[str, Any]  # quick_gelu, mean, std, interpolation, resize_mode; what is left out is CLIP's
OPENAI = {"quick_gelu": True}


def tag_configuration(model: str, tag: str | None) -> dict[str, Any] | None:
    """The `configuration` of the CLIP that a tag of open_clip's names; None if it is no tag, or of no known model."""
    try:
        name = known_name(model)
        shipped = name == TOY_MODEL and tag in (None, "toy", "openai")
        facts = {"quick_gelu": False} if shipped else open_clip.get_pretrained_cfg(name, tag or "")
        return _configuration(facts, sizes_by_name(name).image_size) if facts else None
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
    if not os.path.isfile(file):
        return None
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: can't be read ({first_line(error)})") from None
    if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
        raise UserError(f"{file}: has no model_cfg; it is not open_clip's configuration of a model")
    return content


def _configuration(facts: Facts, size: int) -> dict[str, Any]:
    return {"activation": QUICK_GELU if facts.get("quick_gelu") else GELU} | plain(transform_of(facts, size))
