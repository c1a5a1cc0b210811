"""Composed queries in sentence-transformers: text, image, and image with text.

from sentence_transformers import SentenceTransformer
from context_i2w import Retriever
from context_i2w.search.adapters.sentence_transformers import ComposedModule
model = SentenceTransformer(modules=[ComposedModule(Retriever.load("toy"))])
gallery = model.encode(["a.jpg", "b.jpg"])
queries = model.encode([{"image": "ref.jpg", "text": "a photo of [*] at night"}])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from context_i2w.errors import extra
from context_i2w.search.retriever import Retriever

with extra("sentence-transformers"):  # 6 or newer
    from sentence_transformers.base.modality import infer_modality
    from sentence_transformers.base.modules import InputModule

MODALITIES = ["text", "image", ("image", "text")]


class ComposedModule(InputModule):
    """The one module of a SentenceTransformer: a unit row of each input, as `Retriever.encode` gives it.

    A call's inputs are texts, images (a file's path, a PIL image) or composed queries {"image": ..., "text": ...}, the
    image perhaps a list for "[*1]" and "[*2]" of the text. Not for training: no gradient flows.
    """

    config_file_name = "composed_query.json"
    config_keys: ClassVar[list[str]] = ["method"]

    def __init__(self, retriever: Retriever, method: str | None = None):
        """method: how composed queries are formed (model/queries.py), the retriever's own if None."""
        super().__init__()
        self.retriever, self.method = retriever, method
        self.clip, self.mapper = retriever.clip, retriever.mapper  # what `to` moves
        self.max_seq_length = retriever.clip.sizes.context_length

    @property
    def modalities(self) -> list:
        return MODALITIES

    def get_embedding_dimension(self) -> int:
        return self.retriever.clip.sizes.embed_dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Lists `image`, `text` or both, of inputs of one kind, which the library sees to; prompt: begins each text."""
        kind = infer_modality(inputs[0], MODALITIES)
        given = [value if isinstance(value, dict) else {kind: value} for value in inputs]
        features = {key: [value[key] for value in given] for key in given[0]}
        if prompt and "text" in features:
            features["text"] = [prompt + text for text in features["text"]]
        return features

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds `sentence_embedding` [n, E]. Raises UserError as `Retriever.encode` does."""
        images, texts = features.get("image"), features.get("text")
        rows = self.retriever.encode(images, texts, self.method if images and texts else None)
        return {**features, "sentence_embedding": torch.from_numpy(rows).to(self.clip.device)}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """A folder of `save_pretrained`, the method beside it. Raises UserError for what can't be shared."""
        self.retriever.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def load(
        cls, model_name_or_path: str, subfolder: str = "", trust_remote_code: bool = False, **kwargs: Any
    ) -> ComposedModule:
        """What `save` wrote, from a folder or the hub; sentence-transformers asks for trust_remote_code=True."""
        hub = {key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs}
        folder = cls.load_dir_path(model_name_or_path, subfolder, **hub)
        config = cls.load_config(model_name_or_path, subfolder, **hub)
        return cls(Retriever.load(str(folder), device="cpu", trust_code=trust_remote_code), **config)
