"""Which of open_clip's models are CLIPs of our kind, told from their configuration, before a byte is fetched.

A vision transformer whose first token is the class token, and CLIP's causal text tower: byte pairs, the end token found
by its highest id. Everything else in a configuration must be as in CLIP, or be one of the sizes named here.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip

from context_i2w.errors import UserError
from context_i2w.files import shown
from context_i2w.model.tensor_files import first_line

TOY_FOLDER = Path(__file__).resolve().parents[1] / "toy_world" / "model"
TOY_MODEL = "toy_clip"
SCHEMAS = ("hf-hub:", "local-dir:")
CONFIG = "open_clip_config.json"

_ANYTHING = {"output_tokens", "patch_dropout", "attn_pooler_queries", "attn_pooler_heads", "eos_id", "pad_id"}
_FREE = {
    "vision_cfg": _ANYTHING
    | {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "ls_init_value"}
    | {"no_ln_pre", "pos_embed_type", "final_ln_after_pool"},
    "text_cfg": _ANYTHING | {"context_length", "width", "heads", "layers", "mlp_ratio", "ls_init_value", "proj_bias"},
    None: {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}
    | {"init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"},
}
_STANDARD = {"vision_cfg": asdict(open_clip.CLIPVisionCfg()), "text_cfg": asdict(open_clip.CLIPTextCfg()), None: {}}
_NEEDED = {
    "vision_cfg": "CLIP's vision transformer",
    "text_cfg": "CLIP's causal text tower with its byte pairs",
    None: "CLIP's vision transformer and text tower",
}
_COUNTS = (("vision_cfg", ("image_size", "layers", "width", "patch_size")), ("text_cfg", ("layers", "width", "heads")))


@dataclass(frozen=True)
class CLIPSizes:
    """The widths that a mapper and the data must fit."""

    image_size: int
    image_tokens: int  # N
    vision_width: int  # V
    embed_dim: int  # E
    text_width: int  # T
    context_length: int  # L at most
    vocabulary: int


def known_name(model: str) -> str:
    """open_clip's name of a model: `ViT-L/14@336px` is `ViT-L-14-336`; `hf-hub:` and `local-dir:` stay as they are.

    Raises UserError if there is no such model.
    """
    if model.startswith(SCHEMAS):
        return model
    name = TOY_MODEL if model == "toy" else re.sub(r"@(\d+)px$", r"-\1", model.replace("/", "-"))
    if name == TOY_MODEL:
        open_clip.add_model_config(TOY_FOLDER / f"{TOY_MODEL}.json")
    if name not in open_clip.list_models():
        raise UserError(f"--model {shown(model)}: unknown to open_clip; `open_clip.list_models()` lists the names")
    return name


def supported_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a model by its known name; of one on the hub nothing else is fetched.

    Raises UserError if there is none or it is no CLIP of our kind.
    """
    try:
        config = open_clip.get_model_config(name)
    except Exception as error:  # the hub client has an error class for each fault
        raise UserError(f"--model {shown(name)}: its {CONFIG} can't be read ({first_line(error)})") from None
    check_supported(config, name)
    return config


def check_supported(config: Any, name: str) -> None:
    """Raises UserError naming the entry of open_clip's model configuration by which it is no CLIP of ours."""
    for part in ("vision_cfg", "text_cfg", None):
        given = config.get(part) if part and isinstance(config, dict) else config
        if not isinstance(given, dict):
            raise UserError(f"--model {shown(name)}: its configuration has no {part or 'model_cfg'}")
        for key, value in given.items():
            standard = key in _STANDARD[part] and value == _STANDARD[part][key]
            average = (part, key, value) == ("vision_cfg", "pool_type", "avg")
            if not (standard or average or key in _FREE[part]):
                raise _unlike(name, part, key, value)
    for part, keys in _COUNTS:
        for key in keys:
            value = config[part].get(key, _STANDARD[part][key])
            if type(value) is not int or not 0 < value < 1 << 14:
                raise _unlike(name, part, key, value)
    if type(config.get("embed_dim")) is not int:
        raise _unlike(name, None, "embed_dim", config.get("embed_dim"))


def sizes_by_name(model: str) -> CLIPSizes:
    """Sizes of an open_clip model, from its configuration alone. Raises UserError if it is no CLIP of ours."""
    return sizes_of(supported_config(known_name(model)))


def sizes_of(config: dict[str, Any]) -> CLIPSizes:
    vision, text = (_STANDARD[part] | config[part] for part in ("vision_cfg", "text_cfg"))
    return CLIPSizes(
        image_size=vision["image_size"],
        image_tokens=(vision["image_size"] // vision["patch_size"]) ** 2 + 1,
        vision_width=vision["width"],
        embed_dim=config["embed_dim"],
        text_width=text["width"],
        context_length=text["context_length"],
        vocabulary=text["vocab_size"],
    )


def _unlike(name: str, part: str | None, key: str, value: Any) -> UserError:
    found = f"its {part or 'model'} has {shown(repr(key))} {shown(repr(value))}"
    return UserError(f"--model {shown(name)}: needs {_NEEDED[part]}, but {found}; choose a model such as ViT-L-14")
