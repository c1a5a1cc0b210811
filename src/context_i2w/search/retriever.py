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
from context_i2w.data.reading import batched
from context_i2w.errors import UserError
from context_i2w.evaluation.features import EncodingOptions, precision_of
from context_i2w.files import cache_folder, note
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.clip_weights import TOY_MODEL
from context_i2w.model.extensions import name_of
from context_i2w.model.images import BrokenImage
from context_i2w.model.mappers import Mapper
from context_i2w.model.options import MAPPERS
from context_i2w.model.prompts import Tokenizer
from context_i2w.model.queries import IMAGE_ALONE, parse_method
from context_i2w.search.files import Files, files_of_folder
from context_i2w.search.index import Index
from context_i2w.search.indexing import bring_up_to_date, report_broken
from context_i2w.search.pictures import Picture, PicturePreparation
from context_i2w.search.query import Query, check_length, parse_query
from context_i2w.search.store import Store
from context_i2w.search.thumbnails import Thumbnails
from context_i2w.toy_world.world import is_toy_world


class Retriever:
    """A CLIP and a mapper for it."""

    def __init__(self, clip: FrozenCLIP, mapper: Mapper, origin: Checkpoint | None = None):
        """origin: the checkpoint that both come from."""
        self.clip = clip
        self.mapper = mapper.eval()
        self.mapper_name = name_of(type(mapper), MAPPERS)
        self.tokenizer = Tokenizer(clip.sizes.context_length)
        self.preparation = PicturePreparation(*clip.transform)
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

        Files of the published Context-I2W, Pic2Word, SEARLE and LinCIR code load too. model, pretrained: another CLIP
        than the checkpoint names, e.g. a local weights file. device: a GPU if there is one. trust_code: whether a
        mapper of somebody's own, which the checkpoint names by path, may be imported.
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
        if not checkpoint.belongs_to(self.clip):
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
        if self.clip.name == TOY_MODEL and not store.is_complete(files.states) and not is_toy_world(files.root):
            note(
                f"{files.root}: the toy CLIP knows drawn pictures of 48 pixels and 64 words; take a ViT-L/14 for others"
            )
        small = Thumbnails(store.folder / "thumbnails") if thumbnails else None
        bring_up_to_date(store, files, self.clip, options or EncodingOptions(), small)
        report_broken(store, files)
        if not store.contents.rows:
            raise UserError(f"{files.root}: none of its {len(files.states)} images can be read")
        about = {"clip": self.clip.name, "clip_sha256": self.clip.weights_hash}
        return Index(self.query_features, about, files, store)

    def query_features(
        self, references: Sequence[Sequence[Picture]], descriptions: Sequence[str], method: str = "composed"
    ) -> Tensor:
        """Unit features [Q, E] of queries with their reference images; method: see model/queries.py.

        Raises UserError for an unknown method, a picture that can't be read, placeholders that do not fit.
        """
        queries = [parse_query(text, len(group)) for text, group in zip(descriptions, references, strict=True)]
        distinct = {_key(picture): picture for group in references for picture in group}
        seen = self.see(list(distinct.values()))
        number = {key: place for place, key in enumerate(distinct)}
        features = []
        for query, group in zip(queries, references):
            places = [number[_key(picture)] for picture in group]
            of_query = ImageFeatures(seen.embedding[places], seen.tokens[places])
            features.append(self.query_feature(query, of_query, method))
        return torch.cat(features)

    def query_feature(self, query: Query, seen: ImageFeatures, method: str = "composed") -> Tensor:
        """Unit feature [1, E] of a query under one method; seen: CLIP's features of its references."""
        parsed = parse_method(method)
        words = self.pseudo_words(query, seen) if parsed.needs & {"composed", "alone"} else torch.empty(0)
        return parsed({name: self._vector(name, query, seen, words) for name in parsed.needs})

    def _vector(self, name: str, query: Query, seen: ImageFeatures, words: Tensor) -> Tensor:
        """Unit row [1, E] of one of the vectors that queries are made of; of several references the mean's."""
        if name == "composed":
            return self._compose(query, words[list(query.words)][None])
        if name == "text":
            with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
                return normalize(self.clip.encode_text(self.tokenizer([query.plain])).float(), dim=-1)
        unit = normalize(seen.embedding, dim=-1)
        if name != "image":
            alone = parse_query(IMAGE_ALONE, 1)
            unit = self._compose(alone, self.pseudo_words(alone, seen) if name == "alone:plain" else words)
        return normalize(unit.mean(0, keepdim=True), dim=-1)

    def see(self, pictures: Sequence[Picture], batch_size: int = 16) -> ImageFeatures:
        """CLIP's features of pictures. Raises UserError naming the one that can't be read."""
        try:
            pixels = [self.preparation.pixels(picture) for picture in pictures]
        except BrokenImage as error:
            raise UserError(f"reference {error}") from None
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            parts = [self.clip.encode_image(torch.stack(part)) for part in batched(pixels, batch_size)]
        embedding, tokens = torch.cat([part.embedding for part in parts]), torch.cat([part.tokens for part in parts])
        return ImageFeatures(embedding.float(), tokens.float())

    def condition(self, query: Query) -> Tensor:
        """The mapper's condition [1, E]: the prompt as CLIP reads it, placeholders being ordinary tokens."""
        with torch.inference_mode():
            return self.clip.encode_text(self.tokenizer([query.text])).float()

    def pseudo_words(self, query: Query, seen: ImageFeatures) -> Tensor:
        """Pseudo-word tokens [R, T] of a query's R references."""
        condition = None
        if self.mapper.uses_condition:
            condition = self.condition(query).expand(len(seen.embedding), -1)
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            return self.mapper(condition, seen)

    def _compose(self, query: Query, words: Tensor) -> Tensor:
        """Unit features of the prompt with the pseudo-word tokens in it: [R, T] one for each row, or [1, K, T]."""
        check_length(query, self.tokenizer)
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            return normalize(self.clip.compose(self.tokenizer([query.text]), words).float(), dim=-1)

    def save_pretrained(self, folder: str | os.PathLike, push_to: str | None = None) -> Path:
        """Writes the mapper, its configuration and a model card; push_to "owner/name" uploads them to the hub."""
        if self._origin is None:
            raise UserError("a retriever made of parts can't name its CLIP; call context_i2w.save_pretrained")
        if self.mapper_name == "phi" and self._origin.source == "published":
            raise UserError(f"{self._origin.path}: SEARLE's and LinCIR's weights are CC BY-NC, share their own address")
        reference = clip_reference(self._origin, self.clip)
        return save_pretrained(folder, self.mapper, reference, self.clip.sizes, self._origin.step, push_to)

    def _store_folder(self, files: Files, cache: str | os.PathLike | None) -> Path:
        root = files.root.resolve()
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", root.name)[:40] or "root"
        key = hashlib.sha256(os.fsencode(f"{root}\0{files.label}")).hexdigest()[:12]
        return Path(cache or cache_folder()) / f"{name}-{key}" / self.clip.identity.hash[:16]


def _key(picture: Picture) -> str | int:
    """The same for pictures that need only one pass."""
    return os.fspath(picture) if isinstance(picture, str | os.PathLike) else id(picture)
