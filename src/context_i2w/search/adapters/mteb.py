"""Composed queries in mteb: an encoder for its retrieval tasks of images and texts, CIRR and FashionIQ among them.

import mteb
from context_i2w.search.adapters.mteb import ComposedEncoder
mteb.evaluate(ComposedEncoder("owner/name"), mteb.get_tasks(tasks=["CIRRIT2IRetrieval"]))
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from context_i2w.checkpoints.shared import from_pretrained
from context_i2w.errors import extra
from context_i2w.search.retriever import Retriever

with extra("mteb"):
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction
    from mteb.types import PromptType


class ComposedEncoder(AbsEncoder):
    """Composes queries of image and text; a gallery's rows are of its images, or of its texts where it has none.

    Texts go in without mteb's instruction: CLIP was trained on captions. `mteb_model_meta` loads the same again where
    mteb's name for it is what `Retriever.load` takes, as a repository's on the hub.
    """

    def __init__(
        self,
        source: str | os.PathLike | Retriever,
        revision: str | None = None,
        *,
        device: str | None = None,
        method: str | None = None,
        name: str | None = None,
        **facts: Any,
    ):
        """source: what `Retriever.load` takes, or a retriever. revision: of a repository on the hub.

        method: how queries are composed (model/queries.py), the retriever's own if None. name: "owner/name" in mteb's
        tables. facts: other fields of ModelMeta, e.g. license, release_date, training_datasets.
        """
        name = name or _name(source)
        facts |= {"name": name, "revision": revision, "loader": ComposedEncoder if name == str(source) else None}
        if revision and not isinstance(source, Retriever):
            source = from_pretrained(source, revision).folder or source
        self.model = source if isinstance(source, Retriever) else Retriever.load(source, device=device)
        self.method = method
        self.mteb_model_meta = _meta(self.model, facts, method)

    def encode(
        self, inputs: Iterable[dict[str, Any]], *, prompt_type: PromptType | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Unit rows [n, E] of batches that hold lists `image`, `text` or both."""
        batches = tqdm(inputs, disable=not kwargs.get("show_progress_bar", True), desc="encoding")
        return np.concatenate([self._rows(batch, prompt_type) for batch in batches])

    def _rows(self, batch: dict[str, Any], prompt_type: PromptType | None) -> np.ndarray:
        images, texts = batch.get("image"), batch.get("query", batch.get("text"))
        if images is not None and prompt_type == PromptType.document:
            texts = None
        return self.model.encode(images, texts, self.method if images and texts else None)


def _name(source: str | os.PathLike | Retriever) -> str:
    """mteb wants "owner/name"."""
    parts = [source.clip.name] if isinstance(source, Retriever) else os.fspath(source).replace(os.sep, "/").split("/")
    return "/".join(["context-i2w", *filter(None, parts)][-2:])


def _meta(model: Retriever, facts: dict[str, Any], method: str | None) -> ModelMeta:
    weights = [weight for part in (model.clip, model.mapper) if part is not None for weight in part.parameters()]
    known: dict[str, Any] = {
        "languages": ["eng-Latn"],
        "n_parameters": sum(weight.numel() for weight in weights),
        "memory_usage_mb": sum(weight.nbytes for weight in weights) / 2**20,
        "max_tokens": model.clip.sizes.context_length,
        "embed_dim": model.clip.sizes.embed_dim,
        "open_weights": True,
        "framework": ["PyTorch"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": False,
        "modalities": ["image", "text"],
        "experiment_kwargs": {"method": method} if method else None,
    }
    unknown = ("release_date", "license", "public_training_code", "public_training_data", "training_datasets")
    return ModelMeta(**(dict.fromkeys(unknown) | known | facts))
