"""Files of the published codes: Context-I2W, Pic2Word, the φ of SEARLE and LinCIR; what tensors say about sizes."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from context_i2w.checkpoints.reference import CLIPReference
from context_i2w.errors import UserError
from context_i2w.files import read_json
from context_i2w.model.clip_weights import HEAD_WIDTH
from context_i2w.model.fit_state import without_archive_scalars
from context_i2w.model.options import ContextI2WOptions, PhiOptions, Pic2WordOptions
from context_i2w.model.tensor_files import State, check_state, without_module

# Our parameter name -> the published one; the first pattern that fits counts.
_NAMES = [
    (r"^selector\.condition\.", "to_c."),
    (r"^selector\.direction$", "W_R.weight_v"),
    (r"^selector\.magnitude$", "W_R.weight_g"),
    (r"^extractor\.queries$", "VT_Extractor.latents"),
    (r"^extractor\.final_norm\.", "VT_Extractor.norm."),
    (r"^extractor\.blocks\.(\d+)\.token_norm\.", r"VT_Extractor.layers.\1.0.norm_media."),
    (r"^extractor\.blocks\.(\d+)\.query_norm\.", r"VT_Extractor.layers.\1.0.norm_latents."),
    (r"^extractor\.blocks\.(\d+)\.to_query\.", r"VT_Extractor.layers.\1.0.to_q."),
    (r"^extractor\.blocks\.(\d+)\.to_key_value\.", r"VT_Extractor.layers.\1.0.to_kv."),
    (r"^extractor\.blocks\.(\d+)\.to_output\.", r"VT_Extractor.layers.\1.0.to_out."),
    (r"^extractor\.blocks\.(\d+)\.feed_norm\.", r"VT_Extractor.layers.\1.1.0."),
    (r"^extractor\.blocks\.(\d+)\.feed_in\.", r"VT_Extractor.layers.\1.1.1."),
    (r"^extractor\.blocks\.(\d+)\.feed_out\.", r"VT_Extractor.layers.\1.1.3."),
    (r"^global_head\.norm\.", "ln_post."),
    (r"^local_head\.norm\.", "ln_post_local."),
    (r"^global_head\.projection$", "proj"),
    (r"^local_head\.projection$", "proj_local"),
    (r"^local_head\.mlp\.hidden\.(\d+)\.", r"layers_local.\1.0."),
    (r"^(?:global_head\.)?mlp\.hidden\.(\d+)\.", r"layers.\1.0."),
    (r"^local_head\.mlp\.output\.", "fc_out_local."),
    (r"^(?:global_head\.)?mlp\.output\.", "fc_out."),
    (r"^gate$", "local_gate"),
]


# An entry that only this method's files have.
_FOREIGN = {"KEDs": "state_dict_retrieval_fuse", "RTD": "CLIPTextModelWithProjection", "FTI4CIR": "phi_s"}


def published_name(name: str) -> str:
    """The published code's name of one of our mapper's parameters; a name of another mapper stays as it is."""
    for ours, theirs in _NAMES:
        renamed, hits = re.subn(ours, theirs, name)
        if hits:
            return renamed
    return name


def ours_from_published(state: State, own_names: list[str]) -> State:
    """Published mapper tensors under our names; names that we do not have are kept, so that loading can name them."""
    back = {published_name(name): name for name in own_names}
    return {back.get(name, name): tensor.float() for name, tensor in state.items()}


@dataclass(frozen=True)
class PublishedFile:
    """A published checkpoint, taken apart: the fields of a Checkpoint that the file tells."""

    mapper_name: str
    options: ContextI2WOptions | Pic2WordOptions | PhiOptions
    mapper_state: State  # under the published names
    clip_state: State | None  # under OpenAI's names, float32
    clip: CLIPReference | None = None  # where the file has no CLIP but says which
    protocol: str | None = None  # whose evaluation it is meant for, where the file says: "searle" or "lincir"


def foreign_method(content: dict) -> str | None:
    """The method whose file this is, told by its entries; None for any other file."""
    return next((method for method, key in _FOREIGN.items() if key in content), None)


def is_published(content: dict) -> bool:
    """Whether an unpickled checkpoint is one of the published code."""
    return "state_dict_img2text" in content or "Phi" in content


def parse_published(content: dict, path: str) -> PublishedFile:
    """Takes a published checkpoint apart. Raises UserError if its mapper is none that we know."""
    if "Phi" in content:
        return _parse_phi(content, path)
    _check_all_is_read(content, path)
    mapper_state = without_module(check_state(content["state_dict_img2text"], f"{path}: state_dict_img2text"))
    clip_state = content.get("state_dict")
    if clip_state is not None and clip_state != {}:
        clip_state = without_archive_scalars(without_module(check_state(clip_state, f"{path}: state_dict")))
        clip_state = {name: tensor.float() for name, tensor in clip_state.items()}
    try:
        name, options = _mapper_of(mapper_state)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{path}: state_dict_img2text lacks {error}, it is neither Context-I2W nor Pic2Word") from None
    if clip_state:
        return PublishedFile(name, options, mapper_state, clip_state)
    clip = _CLIP_OF_WIDTH.get(mapper_state["layers.0.0.weight"].shape[1], CLIPReference("ViT-L-14", "openai"))
    return PublishedFile(name, options, mapper_state, None, clip)


# CLIP by the width of its embedding: SEARLE's (OpenAI) and, of LinCIR alone, LAION's.
_CLIP_OF_WIDTH = {
    512: CLIPReference("ViT-B-32", "openai"),
    768: CLIPReference("ViT-L-14", "openai"),
    1024: CLIPReference("ViT-H-14", "laion2b_s32b_b79k"),
    1280: CLIPReference("ViT-bigG-14", "laion2b_s39b_b160k"),
}
# Released files by their SHA-256: LinCIR's lincir_large.pt.
PROTOCOL_OF_FILE = {"5ba98d52db7a5e9a78f9ba7436991235477b89544caf246e4659642bf9b409bd": "lincir"}
_HYPERPARAMETERS = "hyperparameters.json"  # beside SEARLE's own runs


def _parse_phi(content: dict, path: str) -> PublishedFile:
    """φ of SEARLE or LinCIR, {Phi} with or without epoch. Keys and shapes don't tell the two apart."""
    state = without_module(check_state(content["Phi"], f"{path}: Phi"))
    try:
        hidden, width = state["layers.0.weight"].shape
        factor, rest = divmod(hidden, width)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path}: Phi lacks {error}, it is neither SEARLE's nor LinCIR's") from error
    if rest:
        raise UserError(f"{path}: Phi's hidden width {hidden} is no multiple of its input's {width}")
    beside = Path(path).with_name(_HYPERPARAMETERS)
    settings = read_json(beside, {}, "mend it or move it away") if beside.is_file() else {}
    clip = _CLIP_OF_WIDTH.get(width)
    if settings.get("clip_model_name"):
        clip = CLIPReference(str(settings["clip_model_name"]).replace("/", "-"), "openai")
    protocol = "searle" if settings else "lincir" if clip and clip.pretrained != "openai" else None
    options = PhiOptions(factor, float(settings.get("phi_dropout", PhiOptions.dropout)))
    return PublishedFile("phi", options, state, None, clip, protocol)


def _check_all_is_read(content: dict, path: str) -> None:
    """A network that we do not have must not be dropped in silence."""
    known = ("state_dict", "state_dict_img2text")
    others = [key for key in content if isinstance(key, str) and key.startswith("state_dict") and key not in known]
    if others:
        method = foreign_method(content) or "another method"
        raise UserError(f"{path}: of {method}, whose {', '.join(map(repr, others[:4]))} are not implemented")


def _mapper_of(state: State) -> tuple[str, ContextI2WOptions | Pic2WordOptions]:
    """Tells the two mappers apart by their tensors, and reads the sizes that a CLIP does not give."""
    hidden = state["layers.0.0.weight"].shape[0]
    head_layers = _count(state, r"layers\.(\d+)\.0\.weight")
    if "VT_Extractor.latents" not in state:
        return "pic2word", Pic2WordOptions(hidden=hidden, head_layers=head_layers)
    queries, width = state["VT_Extractor.latents"].shape
    return "context-i2w", ContextI2WOptions(
        queries=queries,
        depth=_count(state, r"VT_Extractor\.layers\.(\d+)\.0\.to_q\.weight"),
        heads=state["VT_Extractor.layers.0.0.to_q.weight"].shape[0] // HEAD_WIDTH,
        head_width=HEAD_WIDTH,
        feed_forward=state["VT_Extractor.layers.0.1.1.weight"].shape[0] // width,
        hidden=hidden,
        head_layers=head_layers,
    )


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return len({match[1] for match in (re.fullmatch(pattern, name) for name in state) if match})
