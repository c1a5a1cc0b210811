"""Composed image retrieval over your own pictures, in a few lines.

from context_i2w import Retriever
retriever = Retriever.load("checkpoints/toy")            # or a hub id, a training run, a checkpoint file
index = retriever.index("my_photos/")
hits = index.search("ref.jpg", "a photo of [*] on a beach", k=10)
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from context_i2w.checkpoints.files import Checkpoint
from context_i2w.checkpoints.find import find_checkpoint
from context_i2w.checkpoints.shared import clip_reference, save_pretrained
from context_i2w.errors import UserError
from context_i2w.evaluation.features import EncodingOptions, precision_of
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.extensions import name_of
from context_i2w.model.images import BrokenImage
from context_i2w.model.mappers import Mapper
from context_i2w.model.options import MAPPERS
from context_i2w.model.prompts import Tokenizer
from context_i2w.search.files import Files, files_of_folder
from context_i2w.search.index import Index
from context_i2w.search.indexing import bring_up_to_date, report_broken
from context_i2w.search.pictures import Picture, PicturePreparation
from context_i2w.search.query import Query, check_length, parse_query
from context_i2w.search.store import Store
from context_i2w.search.thumbnails import Thumbnails

ROWS = ("image", "text", "image+text", "composed")


class Retriever:
    """A CLIP and a mapper for it."""

    def __init__(self, clip: FrozenCLIP, mapper: Mapper, origin: Checkpoint | None = None):
        """origin: the checkpoint that both come from."""
        self.clip = clip
        self.mapper = mapper.eval()
        self.mapper_name = name_of(type(mapper), MAPPERS)
        self.tokenizer = Tokenizer(clip.sizes.context_length)
        self.preparation = PicturePreparation(clip.sizes.image_size, clip.image_mean, clip.image_std)
        self._origin = origin

    @classmethod
    def load(
        cls,
        source: str | os.PathLike,
        model: str | None = None,
        pretrained: str | None = None,
        device: str | torch.device | None = None,
        trust_code: bool = False,
    ) -> Retriever:
        """From a folder of `save_pretrained`, the hub's "owner/name", a training run's folder or a checkpoint file.

        Files of the published Context-I2W and Pic2Word code load too. model, pretrained: another CLIP than the
        checkpoint names, e.g. a local weights file. device: a GPU if there is one. trust_code: whether a mapper of
        somebody's own, which the checkpoint names by path, may be imported.
        Raises UserError, in one line, for whatever is missing or does not fit.
        """
        checkpoint = find_checkpoint(source, trust_code)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        clip = checkpoint.load_clip(model, pretrained, device)
        return cls(clip, checkpoint.build_mapper(clip.sizes).to(device), checkpoint)

    def beside(self, source: str | os.PathLike, trust_code: bool = False) -> Retriever:
        """Another mapper, from whatever `load` takes, with this CLIP: both then search the same index.

        Raises UserError if it belongs to another CLIP.
        """
        checkpoint = find_checkpoint(source, trust_code)
        if checkpoint.clip_state is None and checkpoint.clip and checkpoint.clip.weights_hash:
            its_hash = checkpoint.clip.weights_hash
        else:
            its_hash = checkpoint.load_clip().weights_hash
        if its_hash != self.clip.weights_hash:
            raise UserError(f"{source} belongs to another CLIP than {self.clip.name}; use it on its own")
        return Retriever(self.clip, checkpoint.build_mapper(self.clip.sizes).to(self.clip.device), checkpoint)

    def index(
        self,
        folder: str | os.PathLike | Files,
        cache: str | os.PathLike | None = None,
        options: EncodingOptions | None = None,
        thumbnails: bool = True,
    ) -> Index:
        """The index over all images of a folder (and the folders in it), ready to search.

        Features are kept on disk and only new or changed files are encoded. Files that can't be read are named in
        `index.broken`. cache: where features are kept; default $CONTEXT_I2W_CACHE, else ~/.cache/context-i2w.
        thumbnails: whether small pictures (about 8 kB each) are kept beside them, for a page.
        Raises UserError if there is no folder, no image, or the cache can't be written.
        """
        files = folder if isinstance(folder, Files) else files_of_folder(folder)
        store = Store(self._store_folder(files, cache), self.clip.sizes.embed_dim)
        small = Thumbnails(store.folder / "thumbnails") if thumbnails else None
        bring_up_to_date(store, files, self.clip, options or EncodingOptions(), small)
        report_broken(store, files)
        if not store.contents.rows:
            raise UserError(f"{files.root}: none of its {len(files.states)} images can be read")
        return Index(self, files, store)

    def query_features(
        self, references: Sequence[Sequence[Picture]], descriptions: Sequence[str], row: str = "composed"
    ) -> Tensor:
        """Unit features [Q, E] of queries with their reference images; row: one of ROWS."""
        queries = [parse_query(text, len(group)) for text, group in zip(descriptions, references, strict=True)]
        distinct = {_key(picture): picture for group in references for picture in group}
        seen = self.see(list(distinct.values()))
        number = {key: place for place, key in enumerate(distinct)}
        features = []
        for query, group in zip(queries, references):
            places = [number[_key(picture)] for picture in group]
            features.append(self.row_feature(query, ImageFeatures(seen.embedding[places], seen.tokens[places]), row))
        return torch.cat(features)

    def row_feature(self, query: Query, seen: ImageFeatures, row: str = "composed") -> Tensor:
        """Unit feature [1, E] of a query under one of ROWS; seen: CLIP's features of its references."""
        if row not in ROWS:
            raise UserError(f"unknown row {row!r}; known are {', '.join(ROWS)}")
        if row == "composed":
            return self.compose(query, seen)
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            image = normalize(normalize(seen.embedding, dim=-1).mean(0, keepdim=True), dim=-1)
            if row == "image":
                return image
            text = normalize(self.clip.encode_text(self.tokenizer([query.plain])).float(), dim=-1)
            return text if row == "text" else normalize(image + text, dim=-1)

    def see(self, pictures: Sequence[Picture], batch_size: int = 16) -> ImageFeatures:
        """CLIP's features of pictures. Raises UserError naming the one that can't be read."""
        try:
            pixels = [self.preparation(picture) for picture in pictures]
        except BrokenImage as error:
            raise UserError(f"reference {error}") from None
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            parts = [self.clip.encode_image(torch.stack(part)) for part in _chunks(pixels, batch_size)]
        embedding, tokens = torch.cat([part.embedding for part in parts]), torch.cat([part.tokens for part in parts])
        return ImageFeatures(embedding.float(), tokens.float())

    def condition(self, query: Query) -> Tensor:
        """The mapper's condition [1, E]: the prompt as CLIP reads it, placeholders being ordinary tokens."""
        with torch.inference_mode():
            return self.clip.encode_text(self.tokenizer([query.text])).float()

    def pseudo_words(self, query: Query, seen: ImageFeatures) -> Tensor:
        """Pseudo-word tokens [R, T] of a query's R references."""
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            return self.mapper(self.condition(query).expand(len(seen.embedding), -1), seen)

    def compose(self, query: Query, seen: ImageFeatures) -> Tensor:
        """Unit feature [1, E] of the prompt with the pseudo-word tokens in it."""
        check_length(query, self.tokenizer)
        words = self.pseudo_words(query, seen)[list(query.words)]
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            return normalize(self.clip.compose(self.tokenizer([query.text]), words[None]).float(), dim=-1)

    def save_pretrained(self, folder: str | os.PathLike, push_to: str | None = None) -> Path:
        """Writes the mapper, its configuration and a model card; push_to "owner/name" uploads them to the hub."""
        if self._origin is None:
            raise UserError("a retriever made of parts can't name its CLIP; call context_i2w.save_pretrained")
        reference = clip_reference(self._origin, self.clip)
        return save_pretrained(folder, self.mapper, reference, self.clip.sizes, self._origin.step, push_to)

    def _store_folder(self, files: Files, cache: str | os.PathLike | None) -> Path:
        root = files.root.resolve()
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", root.name)[:40] or "root"
        key = hashlib.sha256(os.fsencode(f"{root}\0{files.label}")).hexdigest()[:12]
        return Path(cache or default_cache()) / f"{name}-{key}" / self.clip.weights_hash[:16]


def default_cache() -> Path:
    if "CONTEXT_I2W_CACHE" in os.environ:
        return Path(os.environ["CONTEXT_I2W_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "context-i2w"


def _key(picture: Picture) -> str | int:
    """The same for pictures that need only one pass."""
    return os.fspath(picture) if isinstance(picture, str | os.PathLike) else id(picture)


def _chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]
