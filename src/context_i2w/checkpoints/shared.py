"""A mapper as a folder to share: mapper.safetensors, config.json and a model card; on disk or on the Hugging Face hub.

CLIP is not copied: config.json names it, with the SHA-256 of its weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
from safetensors.torch import save

from context_i2w.checkpoints.files import FORMAT, Checkpoint, from_ours, pack_mapper
from context_i2w.checkpoints.model_card import model_card
from context_i2w.checkpoints.reference import CLIP_SHAPE, CLIPReference, check_shape
from context_i2w.errors import UserError
from context_i2w.files import atomic_path, read_json, shown, write_text
from context_i2w.model.backbones import CLIPSizes, sizes_by_name
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.extensions import name_of, source_of
from context_i2w.model.mappers import Mapper
from context_i2w.model.options import MAPPERS
from context_i2w.model.tensor_files import check_readable, check_state, first_line, load_tensors

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

WEIGHTS = "mapper.safetensors"
CONFIG = "config.json"
CARD = "README.md"
_SHAPE = {"mapper": {"name": str, "options": {str: object}}, "clip": CLIP_SHAPE, "step?": int | None}


def save_pretrained(
    folder: str | os.PathLike,
    mapper: Mapper,
    clip: CLIPReference,
    sizes: CLIPSizes,
    step: int | None = None,
    push_to: str | None = None,
    results: Sequence[EvalResult] = (),
) -> Path:
    """Writes the mapper into `folder` (made if needed) and, with `push_to` "owner/name", uploads it to the hub.

    clip: the CLIP that the mapper belongs to, by name and hash (see `clip_reference`); sizes: its sizes.
    results: an evaluation's numbers for the card (evaluation/card_results.py).
    Returns the folder. Raises UserError if the folder can't be written or the upload fails.
    """
    folder = Path(folder)
    config = {**pack_mapper(name_of(type(mapper), MAPPERS), mapper, clip, step), "sizes": asdict(sizes)}
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in config["mapper"].pop("state").items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(state, metadata={"format": "pt"}))
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    if source := source_of(type(mapper)):
        write_text(folder / source.name, source.read_text(encoding="utf-8"))
    parameters = sum(tensor.numel() for tensor in state.values())
    write_text(folder / CARD, model_card(config, type(mapper), parameters, push_to or folder.name, results))
    if push_to:
        _upload(folder, push_to, source)
    return folder


def from_pretrained(source: str | os.PathLike, revision: str | None = None, trust_code: bool = False) -> Checkpoint:
    """The mapper of a folder of `save_pretrained`, or of the hub's "owner/name" (fetched once, then cached).

    Build it with `checkpoint.build_mapper(checkpoint.load_clip().sizes)`. trust_code: as `read_checkpoint` has it.
    Raises UserError if there is no such folder or repository, or its files are damaged.
    """
    folder = Path(source) if os.path.isdir(source) else _download(str(source), revision, trust_code)
    path, where = folder / WEIGHTS, str(folder / CONFIG)
    config = read_json(folder / CONFIG, {}, "write it with save_pretrained")
    if config.get("format") != FORMAT:
        raise UserError(f"{where}: its format is not {FORMAT!r}; write it with save_pretrained")
    check_shape(config, _SHAPE, where)
    _check_inside(config["clip"], where)
    check_readable(path, "file of a shared mapper")
    state = check_state(load_tensors(path), str(path))
    return from_ours(path, config, state, where, trust_code, folder=folder)


def is_pretrained_folder(path: Path) -> bool:
    return os.path.isfile(path / WEIGHTS) and os.path.isfile(path / CONFIG)


def clip_reference(checkpoint: Checkpoint, clip: FrozenCLIP) -> CLIPReference:
    """The checkpoint's CLIP by name and hash; a local weights file is named without its folder.

    One that the checkpoint carries is named as OpenAI's of the same sizes. Raises UserError if there is none.
    """
    reference = checkpoint.clip or CLIPReference(_name_by_sizes(clip, checkpoint.path), "openai")
    pretrained = Path(reference.pretrained).name if reference.pretrained else None
    return CLIPReference(reference.model, pretrained, clip.weights_hash, reference.configuration)


def _name_by_sizes(clip: FrozenCLIP, path: Path) -> str:
    for name in open_clip.list_pretrained_models_by_tag("openai"):
        try:
            if sizes_by_name(name) == clip.sizes and "quickgelu" not in name:
                return name
        except UserError:  # a ResNet
            continue
    raise UserError(f"{path}: the CLIP in this file has the sizes of no OpenAI model, so it can't be given by name")


def _check_inside(clip: dict[str, Any], where: str) -> None:
    """What somebody else wrote opens nothing outside its folder."""
    model, weights = clip["model"], clip.get("pretrained")
    bare = weights is None or os.path.basename(weights) == weights not in ("", ".", "..")
    if not bare or model.startswith("local-dir:"):
        named = model if bare else str(weights)
        raise UserError(f"{where}: names {shown(named)}, which is no tag and no file of its own folder")


def _download(repo: str, revision: str | None, trust_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        wanted = [WEIGHTS, CONFIG, CARD, *["*.py"] * trust_code]
        found = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except HFValidationError:
        raise UserError(f"{repo}: neither a folder nor a hub repository `owner/name`") from None
    except Exception as error:  # network, authorisation, absence: the hub client has an error class for each
        raise UserError(f"{repo}: no such folder, and the hub says: {first_line(error)}") from None
    if not is_pretrained_folder(found):
        raise UserError(f"{repo}: holds no {WEIGHTS} with {CONFIG}")
    return found


def _upload(folder: Path, repo: str, source: Path | None) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, exist_ok=True)
        wanted = [WEIGHTS, CONFIG, CARD, *([source.name] if source else [])]
        api.upload_folder(repo_id=repo, folder_path=str(folder), allow_patterns=wanted)
    except Exception as error:
        raise UserError(f"{repo}: upload failed: {first_line(error)}; log in with `hf auth login`") from None
