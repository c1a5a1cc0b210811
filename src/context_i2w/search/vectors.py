"""The vectors that queries are made of (model/queries.py), for many queries at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from context_i2w.errors import UserError
from context_i2w.evaluation.features import precision_of
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.mappers import Mapper
from context_i2w.model.prompts import Tokenizer
from context_i2w.model.queries import IMAGE_ALONE
from context_i2w.search.query import Query, check_length, parse_query

ALONE = parse_query(IMAGE_ALONE, 1)


class QueryVectors(dict[str, Tensor]):
    """Unit rows [Q, E] by name, each made when a method first asks for it; "words": pseudo-word tokens [R, T] of all
    references, made with their queries' prompts.

    seen: CLIP's features of all references, query by query; counts: how many each has, of which a vector is the mean,
    unit again. mapper None: a UserError for the vectors that need one.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        tokenizer: Tokenizer,
        mapper: Mapper | None,
        queries: Sequence[Query],
        seen: ImageFeatures,
        counts: Sequence[int],
    ):
        super().__init__()
        self.clip, self.tokenizer, self.mapper, self.queries = clip, tokenizer, mapper, list(queries)
        self.seen, self.counts = seen, list(counts)

    def __missing__(self, name: str) -> Tensor:
        with torch.inference_mode(), precision_of(self.clip.device, "fp32"):
            self[name] = self._make(name)
        return self[name]

    def _make(self, name: str) -> Tensor:
        if name == "words":
            return self._words(self.queries)
        if name == "composed":
            return self._composed()
        if name == "text":
            return normalize(self.clip.encode_text(self.tokenizer([q.plain for q in self.queries])).float(), dim=-1)
        if name == "image":
            return self._means(normalize(self.seen.embedding, dim=-1))
        words = self._words([ALONE] * len(self.queries)) if name == "alone:plain" else self["words"]
        return self._means(self._compose([ALONE], words))

    def _words(self, queries: Sequence[Query]) -> Tensor:
        if self.mapper is None:
            remedy = "ask for image, text, image+text or slerp, or load a checkpoint with Retriever.load"
            raise UserError(f"composed queries need a mapper, and this retriever has CLIP alone: {remedy}")
        condition = None
        if self.mapper.uses_condition:
            read = self.clip.encode_text(self.tokenizer([query.text for query in queries])).float()
            condition = read.repeat_interleave(torch.tensor(self.counts, device=read.device), dim=0)
        return self.mapper(condition, self.seen)

    def _composed(self) -> Tensor:
        """Prompts with equally many placeholders go together."""
        of_query = self["words"].split(self.counts)
        rows = torch.empty(len(self.queries), self.clip.sizes.embed_dim, device=self.clip.device)
        for count in {len(query.words) for query in self.queries}:
            places = [place for place, query in enumerate(self.queries) if len(query.words) == count]
            words = torch.stack([of_query[place][list(self.queries[place].words)] for place in places])  # [q, K, T]
            rows[places] = self._compose([self.queries[place] for place in places], words)
        return rows

    def _compose(self, queries: Sequence[Query], words: Tensor) -> Tensor:
        """Unit features of prompts with these pseudo-word tokens in them."""
        for query in queries:
            check_length(query, self.tokenizer)
        return normalize(self.clip.compose(self.tokenizer([query.text for query in queries]), words).float(), dim=-1)

    def _means(self, rows: Tensor) -> Tensor:
        """[R, E] -> [Q, E]."""
        return normalize(torch.stack([part.mean(0) for part in rows.split(self.counts)]), dim=-1)
