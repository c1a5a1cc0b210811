"""Checkpoint files: ours, and the published code's; what is in them and which CLIP they belong to.

Ours hold the mapper and name CLIP by model, weights and hash; the published ones carry a whole CLIP.
Everything is read with safe loading (`weights_only=True`).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from context_i2w.checkpoints.published import (
    PROTOCOL_OF_FILE,
    foreign_method,
    is_published,
    ours_from_published,
    parse_published,
    published_name,
)
from context_i2w.checkpoints.reference import CLIP_SHAPE, CLIPReference, check_shape, read_reference
from context_i2w.command_line import options_from
from context_i2w.errors import UserError
from context_i2w.files import atomic_path, shown
from context_i2w.model.backbones import CLIPSizes, sizes_by_name
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.clip_weights import clip_from_openai_state, load_clip
from context_i2w.model.extensions import find_class
from context_i2w.model.fit_state import load_state
from context_i2w.model.identity import QUICK_GELU
from context_i2w.model.mappers import Mapper
from context_i2w.model.options import MAPPERS
from context_i2w.model.tensor_files import State, check_readable, check_state, first_line, load_safely

FORMAT = "context-i2w/1"
_SHAPE = {"mapper": {"name": str, "options": {str: object}, "state": dict}, "clip": CLIP_SHAPE, "step": int | None}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, read but not yet built."""

    path: Path
    file_hash: str  # SHA-256 of the file
    source: str  # "context-i2w" or "published"
    mapper_name: str  # a short name of ours, or the path of a class of the user's own
    mapper_class: type[Mapper]
    options: Any  # the mapper's own Options
    mapper_state: State
    clip: CLIPReference | None
    clip_state: State | None = None  # published files carry CLIP itself
    step: int | None = None
    content: Mapping = field(default_factory=dict)  # a run's only: all that was saved, for resuming
    protocol: str | None = None  # of benchmarks/protocols.py, where a published file tells its family
    folder: Path | None = None  # shared mappers only: where their weights of CLIP must lie, if they name a file

    def load_clip(self, model: str | None = None, pretrained: str | None = None, device="cpu") -> FrozenCLIP:
        """The CLIP that the mapper was trained with; model, pretrained: what was asked for, None: the file decides.

        Raises UserError if the file's CLIP is of other sizes than `model`, or the weights' hash differs.
        """
        if self.clip_state is not None:
            return self._published_clip(self.clip_state, model, device)
        reference = self.clip or CLIPReference(model or "", None)
        of_openai = self.source == "published" and reference.pretrained in ("openai", None)
        if of_openai and model is None and pretrained and Path(pretrained).is_file():
            return load_clip(None, pretrained, device, {"activation": QUICK_GELU})  # its tensors tell the sizes
        if not (model or reference.model):
            raise UserError(f"{self.path} does not say which CLIP it belongs to; give --pretrained FILE, or --model")
        pretrained = pretrained or reference.weights(self.folder)
        clip = load_clip(model or reference.model, pretrained, device, reference.known_configuration())
        difference = reference.difference(clip)
        if difference:
            remedy = "leave out --model and --pretrained, or give its weights"
            raise UserError(f"{self.path} was trained with another CLIP: {difference}; {remedy}")
        return clip

    def belongs_to(self, clip: FrozenCLIP, model: str | None = None, pretrained: str | None = None) -> bool:
        """Whether the mapper was trained with this CLIP; loads its own only where names and hashes can't tell."""
        if self.clip_state is None and self.clip and self.clip.weights_hash:
            return self.clip.difference(clip) is None
        return self.load_clip(model, pretrained).identity == clip.identity

    def build_mapper(self, sizes: CLIPSizes) -> Mapper:
        """The mapper in evaluation mode. Raises UserError naming tensors and shapes if it does not fit the CLIP."""
        mapper = self._new_mapper(sizes)
        state: State = self.mapper_state
        shown: Callable[[str], str] = str
        if self.source == "published":
            state, shown = ours_from_published(state, list(mapper.state_dict())), published_name
        load_state(mapper, state, str(self.path), shown)
        return mapper.eval()

    def _new_mapper(self, sizes: CLIPSizes) -> Mapper:
        held = max(sum(tensor.numel() for tensor in self.mapper_state.values()), 1 << 16)
        for option, value in vars(self.options).items():
            if isinstance(value, int) and value > held:  # before it is built, if memory lasts
                raise UserError(f"{self.path}: option {option} {value:.3g} is beyond the file's tensors")
        try:
            return self.mapper_class(sizes, self.options)
        except (TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
            wanted = f"no {self.mapper_name} can be built with {shown(str(self.options), 300)}"
            raise UserError(f"{self.path}: {wanted} ({first_line(error)})") from None

    def _published_clip(self, state: State, model: str | None, device: str | torch.device) -> FrozenCLIP:
        clip = clip_from_openai_state(state, f"CLIP of {self.path.name}", device)
        held, asked = asdict(clip.sizes), asdict(sizes_by_name(model) if model else clip.sizes)
        if differ := [name for name in held if held[name] != asked[name]]:
            told = ", ".join(f"{name} {held[name]} in the file, {asked[name]} in {model}" for name in differ)
            raise UserError(f"--model {model} contradicts {self.path}: {told}; leave out --model")
        return clip


def read_checkpoint(path: str | Path, trust_code: bool = False) -> Checkpoint:
    """Reads a checkpoint file of ours, of the published code, of Pic2Word, SEARLE or LinCIR.

    trust_code: whether a mapper of somebody's own, which it names by path, may be imported. Raises UserError if there
    is no such file, it does not load safely, or it is no checkpoint.
    """
    path = Path(path)
    check_readable(path, "checkpoint file")
    content = load_safely(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: a {type(content).__name__}, not a checkpoint")
    if is_published(content):
        return _from_published(path, content)
    if content.get("format") != FORMAT:
        keys = ", ".join(shown(str(key)) for key in list(content)[:6])
        other = foreign_method(content)
        hint = f"it is of {other}, which is not implemented" if other else "train one with `python src/main.py`"
        raise UserError(f"{path}: not a checkpoint of a mapper (it holds {keys}); {hint}")
    check_shape(content, _SHAPE, str(path))
    state = check_state(content["mapper"]["state"], f"{path}: mapper.state")
    return from_ours(path, content, state, str(path), trust_code, content=content)


def pack_mapper(name: str, mapper: Mapper, clip: CLIPReference, step: int | None) -> dict[str, Any]:
    """The part of our checkpoint that evaluation needs; training adds its own state beside it."""
    return {
        "format": FORMAT,
        "mapper": {"name": name, "options": asdict(mapper.options), "state": dict(mapper.state_dict())},
        "clip": asdict(clip),
        "step": step,
    }


def save_atomically(content: Mapping, path: Path) -> None:
    """torch.save: a reader sees the old file or the whole new one. Raises UserError where it can't be written."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(dict(content), file)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def from_ours(path: Path, about: Mapping, state: State, where: str, trust_code: bool, **more: Any) -> Checkpoint:
    """The checkpoint of tensors in the file `path`; about: what is written of them in `where`. Raises UserError."""
    name, options = about["mapper"]["name"], about["mapper"]["options"]
    kind = find_class(name, MAPPERS, "mapper", trust_code, path.parent)
    return Checkpoint(
        path=path,
        file_hash=hash_file(path),
        source="context-i2w",
        mapper_name=name,
        mapper_class=kind,
        options=options_from(kind.Options, options, where),
        mapper_state=state,
        clip=read_reference(about["clip"], where),
        step=about.get("step"),
        **more,
    )


def _from_published(path: Path, content: dict) -> Checkpoint:
    file, file_hash = parse_published(content, str(path)), hash_file(path)
    return Checkpoint(
        path=path,
        file_hash=file_hash,
        source="published",
        mapper_class=find_class(file.mapper_name, MAPPERS, "mapper"),
        **vars(file) | {"protocol": file.protocol or PROTOCOL_OF_FILE.get(file_hash)},
    )
