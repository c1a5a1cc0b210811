"""Composed image retrieval over your own pictures, in a few lines.

from context_i2w import Retriever
retriever = Retriever.load("toy")                        # or a hub id, a training run, a checkpoint file
index = retriever.index("my_photos/")
hits = index.search("ref.jpg", "a photo of [*] at night", k=10)
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from context_i2w.checkpoints.files import Checkpoint
from context_i2w.checkpoints.find import find_checkpoint
from context_i2w.checkpoints.shared import clip_reference, save_pretrained
from context_i2w.data.reading import batched
from context_i2w.distributed import device_named
from context_i2w.errors import UserError
from context_i2w.evaluation.card_results import read_results
from context_i2w.evaluation.features import EncodingOptions, encode_texts, precision_of
from context_i2w.files import cache_folder, note
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.clip_weights import DEFAULT_MODEL, TOY_MODEL, load_clip
from context_i2w.model.extensions import name_of
from context_i2w.model.images import BrokenImage
from context_i2w.model.mappers import Mapper
from context_i2w.model.options import MAPPERS
from context_i2w.model.prompts import Tokenizer
from context_i2w.model.queries import parse_method
from context_i2w.search.files import Files
from context_i2w.search.galleries import Images, find_files
from context_i2w.search.index import Index
from context_i2w.search.indexing import bring_up_to_date, report_broken
from context_i2w.search.pictures import Picture, PicturePreparation
from context_i2w.search.query import Query, as_pictures, as_queries, as_texts, check_alone, parse_query, parse_text
from context_i2w.search.store import Store
from context_i2w.search.thumbnails import Thumbnails
from context_i2w.search.vectors import QueryVectors
from context_i2w.toy_world.world import is_toy_world

CHUNK = 64  # pictures, texts or queries that go through CLIP together


class Retriever:
    """A CLIP and a mapper for it, or CLIP alone (mapper None), which has the methods that need no mapper."""

    def __init__(self, clip: FrozenCLIP, mapper: Mapper | None = None, origin: Checkpoint | None = None):
        """origin: the checkpoint that both come from."""
        self.clip = clip
        self.mapper = None if mapper is None else mapper.eval()
        self.mapper_name = None if mapper is None else name_of(type(mapper), MAPPERS)
        self.tokenizer = Tokenizer(clip.sizes.context_length)
        self.preparation = PicturePreparation(*clip.transform)
        self._origin = origin

    def __repr__(self) -> str:
        origin = f" of {self._origin.path}" if self._origin else ""
        mapper = f"{self.mapper_name}{origin}" if self.mapper_name else "no mapper"
        return f"Retriever({self.clip.name}, {mapper}, {self.clip.device})"

    @classmethod
    def load(
        cls,
        source: str | os.PathLike,
        model: str | None = None,
        pretrained: str | None = None,
        device: str | torch.device | None = None,
        trust_code: bool = False,
    ) -> Retriever:
        """From a folder of `save_pretrained`, the hub's "owner/name", a run's folder, a checkpoint file, or "toy".

        Files of the published Context-I2W, Pic2Word, SEARLE and LinCIR code load too. model, pretrained: another CLIP
        than the checkpoint names, e.g. a local weights file. device: a GPU if there is one. trust_code: whether a
        mapper of somebody's own, which the checkpoint names by path, may be imported.
        Raises UserError, in one line, for whatever is missing or does not fit.
        """
        checkpoint = find_checkpoint(source, trust_code)
        clip = checkpoint.load_clip(model, pretrained, device_named(device))
        return cls(clip, checkpoint.build_mapper(clip.sizes).to(clip.device), checkpoint)

    @classmethod
    def from_clip(
        cls,
        model: str | None = DEFAULT_MODEL,
        pretrained: str | None = "openai",
        device: str | torch.device | None = None,
    ) -> Retriever:
        """Without a mapper. model, pretrained: as open_clip names them, or a file. UserError for what is none."""
        return cls(load_clip(model, pretrained, device_named(device)))

    def beside(self, source: str | os.PathLike, trust_code: bool = False) -> Retriever:
        """Another mapper of this CLIP, for the same index, from what `load` takes. Raises UserError for another's."""
        checkpoint = find_checkpoint(source, trust_code)
        if not checkpoint.belongs_to(self.clip):
            raise UserError(f"{source} belongs to another CLIP than {self.clip.name}; use it on its own")
        return Retriever(self.clip, checkpoint.build_mapper(self.clip.sizes).to(self.clip.device), checkpoint)

    def index(
        self,
        images: Images,
        cache: str | os.PathLike | None = None,
        options: EncodingOptions | None = None,
        thumbnails: bool = True,
    ) -> Index:
        """The index over all images of a folder (and the folders in it), ready to search.

        images: the folder; or a list of files and folders, a text file with a path in each line, WebDataset shards by
        a pattern (`shards/{00000..00010}.tar`), or a folder of embeddings in parts (search/parts.py). Files that can't
        be read are named in `index.broken`.
        cache: where features are kept, so that only new or changed files are encoded; default $CONTEXT_I2W_CACHE, else
        ~/.cache/context-i2w. Lists under one folder take turns in it: give each one of its own where several are used.
        thumbnails: whether small pictures (about 8 kB each) are kept beside them, for a page.
        Raises UserError if an image or folder is not there, none can be read, or the cache can't be written.
        """
        files = find_files(images)
        store = Store(self._store_folder(files, cache), self.clip.sizes.embed_dim)
        if self.clip.name == TOY_MODEL and not store.is_complete(files.states) and not is_toy_world(files.root):
            others = 'Retriever.from_clip("ViT-L-14", "openai"), --model ViT-L/14, or a checkpoint for it'
            knows = "the toy CLIP knows drawn pictures of 48 pixels and 64 words"
            note(f"{files.title}: {knows}; for photographs take {others}")
        small = Thumbnails(store.folder / "thumbnails") if thumbnails else None
        bring_up_to_date(store, files, self.clip, options or EncodingOptions(), small)
        report_broken(store, files)
        if not store.contents.rows:
            raise UserError(f"{files.root}: none of its {len(files.states)} images can be read")
        about = {"clip": self.clip.name, "clip_sha256": self.clip.weights_hash}
        return Index(self.query_features, about, files, store)

    def query_features(
        self, references: Sequence[Sequence[Picture]], descriptions: Sequence[str], method: str | None = None
    ) -> Tensor:
        """Unit features [Q, E] of queries with their references, by a method of model/queries.py. Raises UserError."""
        return self._query_rows(references, descriptions, [method or self.default_method])[0]

    @overload
    def encode(self, images: Any = None, texts: Any = None, methods: str | None = None) -> np.ndarray: ...

    @overload
    def encode(self, images: Any, texts: Any, methods: list[str] | tuple[str, ...]) -> dict[str, np.ndarray]: ...

    def encode(self, images=None, texts=None, methods=None):
        """Unit rows for any vector store, [n, E] float32: of a gallery, of texts, or of composed queries.

        images alone: a row for each picture (a path or a PIL image; one or a list). texts alone: a row for each text,
        as CLIP reads it. Both: a row for each query, its references and description as in `Index.search`.
        methods: how queries are formed (model/queries.py). One name, or none: one array; a list: a dict of arrays by
        name. Left out: "image", "text" and, of queries, "composed", without a mapper "slerp".
        Raises UserError for a picture that can't be read and for a method that needs what is not there.
        """
        default = "text" if images is None else self.default_method if texts is not None else "image"
        names = list(methods) if isinstance(methods, list | tuple) else [methods or default]
        if images is not None and texts is not None:
            rows = self._query_rows(*as_queries(images, texts), names)
        else:
            check_alone(names, default)
            rows = [self._text_rows(texts) if images is None else self._image_rows(images)] * len(names)
        arrays = [features.cpu().numpy() for features in rows]
        return dict(zip(names, arrays)) if isinstance(methods, list | tuple) else arrays[0]

    @property
    def default_method(self) -> str:
        """How queries are formed where nothing is said."""
        return "slerp" if self.mapper is None else "composed"

    def _query_rows(
        self, references: Sequence[Sequence[Picture]], descriptions: Sequence[str], names: Sequence[str]
    ) -> list[Tensor]:
        """[Q, E] of each method; a few queries at a time, each of their pictures once."""
        methods = [parse_method(name) for name in names]
        queries = [parse_query(text, len(group)) for text, group in zip(descriptions, references, strict=True)]
        parts = [[torch.empty(0, self.clip.sizes.embed_dim)] * bool(not queries) for _ in methods]
        for some, groups in zip(batched(queries, CHUNK), batched(references, CHUNK)):
            distinct = {_key(picture): picture for group in groups for picture in group}
            seen, number = self.see(list(distinct.values())), {key: place for place, key in enumerate(distinct)}
            places = [number[_key(picture)] for group in groups for picture in group]
            vectors = self.vectors(some, ImageFeatures(*(part[places] for part in seen)), [*map(len, groups)])
            for method, found in zip(methods, parts):
                found.append(method(vectors))
        return [torch.cat(found) for found in parts]

    def _image_rows(self, images: Picture | Sequence[Picture]) -> Tensor:
        rows = [self.see(part).embedding for part in batched(as_pictures(images), CHUNK)]
        return normalize(torch.cat(rows or [torch.empty(0, self.clip.sizes.embed_dim)]), dim=-1)

    def _text_rows(self, texts: str | Sequence[str]) -> Tensor:
        read = [parse_text(text).text for text in as_texts(texts)]
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            return normalize(encode_texts(self.clip, self.tokenizer(read), CHUNK), dim=-1)

    def vectors(self, queries: Sequence[Query], seen: ImageFeatures, counts: Sequence[int] = ()) -> QueryVectors:
        """What queries are mixed of; counts: as QueryVectors has it, left out for a single query."""
        return QueryVectors(self.clip, self.tokenizer, self.mapper, queries, seen, counts or [len(seen.embedding)])

    def see(self, pictures: Sequence[Picture], batch_size: int = 16) -> ImageFeatures:
        """CLIP's features of pictures. Raises UserError naming the one that can't be read."""
        try:
            pixels = [self.preparation.pixels(picture) for picture in pictures]
        except BrokenImage as error:
            raise UserError(f"reference {error}") from None
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            parts = [self.clip.encode_image(torch.stack(part)) for part in batched(pixels, batch_size)]
        return ImageFeatures(*(torch.cat(part).float() for part in zip(*parts)))

    def condition(self, query: Query) -> Tensor:
        """The mapper's condition [1, E]: the prompt as CLIP reads it, placeholders being ordinary tokens."""
        with torch.inference_mode():
            return self.clip.encode_text(self.tokenizer([query.text])).float()

    def save_pretrained(
        self, folder: str | os.PathLike, push_to: str | None = None, results: Sequence[str | os.PathLike] = ()
    ) -> Path:
        """Writes the mapper, its configuration and a model card; push_to "owner/name" uploads them to the hub.

        results: JSON files of evaluations of this checkpoint, whose numbers the card gets.
        """
        if self.mapper is None:
            raise UserError("a retriever without a mapper has nothing to share: CLIP is had from open_clip by its name")
        if self._origin is None:
            raise UserError("a retriever made of parts can't name its CLIP; call context_i2w.save_pretrained")
        if self.mapper_name == "phi" and self._origin.source == "published":
            raise UserError(f"{self._origin.path}: SEARLE's and LinCIR's weights are CC BY-NC, share their own address")
        reference = clip_reference(self._origin, self.clip)
        numbers = read_results([Path(path) for path in results], self._origin.file_hash)
        return save_pretrained(folder, self.mapper, reference, self.clip.sizes, self._origin.step, push_to, numbers)

    def _store_folder(self, files: Files, cache: str | os.PathLike | None) -> Path:
        root = files.root.resolve()
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", root.name)[:40] or "root"
        key = hashlib.sha256(os.fsencode(f"{root}\0{files.label}")).hexdigest()[:12]
        return Path(cache or cache_folder()) / f"{name}-{key}" / self.clip.identity.hash[:16]


def _key(picture: Picture) -> str | int:
    """The same for pictures that need only one pass."""
    return os.fspath(picture) if isinstance(picture, str | os.PathLike) else id(picture)
