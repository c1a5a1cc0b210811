"""The searchable index over a gallery: hits for queries, exact or approximate."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from context_i2w.errors import UserError
from context_i2w.files import file_state, read_json, write_text
from context_i2w.model.images import BrokenImage, Packed, as_image
from context_i2w.search import approximate
from context_i2w.search.approximate import RECALL_AT, ApproximateOptions
from context_i2w.search.export import export
from context_i2w.search.files import Files
from context_i2w.search.nearest import nearest
from context_i2w.search.pictures import SMALL, Picture, open_scaled, read_picture
from context_i2w.search.query import References, as_queries
from context_i2w.search.store import Store
from context_i2w.search.thumbnails import Thumbnails, thumbnail


@dataclass(frozen=True)
class Hit:
    """rank: 1 is the best. score: cosine similarity of query and image. name: path relative to the gallery."""

    path: Path
    score: float
    rank: int
    name: str


def _check_count(k: Any) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise UserError(f"k={k!r}: a whole number of results is expected, at least one")


class Index:
    """Images of a gallery and their features. Made by `Retriever.index`."""

    def __init__(self, query_features: Callable[..., Tensor], about: dict[str, Any], files: Files, store: Store):
        """query_features: `Retriever.query_features`. about: which CLIP that is, for exported features."""
        self._query_features, self._about = query_features, about
        self.files, self.store = files, store
        self.names = list(store.contents.rows)  # in the order of rows
        self.broken = {name: reason for name, (_, reason) in store.contents.broken.items()}  # why it was left out
        self.features: np.ndarray = store.features()  # [n, E] unit rows, memory-mapped
        self._rows = torch.as_tensor(self.features)
        self.recall: float | None = None  # recall@10 of the approximate index, None while the search is exact
        self._approximate: tuple[Any, ApproximateOptions] | None = None
        self._row = {name: row for row, name in enumerate(self.names)}
        self._thumbnails = Thumbnails(store.folder / "thumbnails")

    def __repr__(self) -> str:
        search = "exact search" if self._approximate is None else self._approximate[1].factory
        left_out = f", {len(self.broken):,} left out" if self.broken else ""
        return f"Index({len(self):,} images of {self.files.title}{left_out}, {self._about['clip']}, {search})"

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._row

    def search(
        self,
        reference: References,
        description: str | Sequence[str],
        k: int = 10,
        method: str | None = None,
        keep_reference: bool = False,
        exact: bool = False,
    ) -> list[Hit] | list[list[Hit]]:
        """The k best images for a reference image changed as the description says, best first.

        description: a string is one query, and `reference` then one image (a path or a PIL image) or a list of
        images, its `[*1]`, `[*2]`. A list of strings is a batch: `reference` is then one image for all of them, or a
        list with an entry for each; the answer is a list of lists.
        method: how the query is formed (model/queries.py); left out: "composed", without a mapper "slerp".
        keep_reference: whether an image of this gallery may find itself. exact: not by the approximate index.
        Raises UserError for a reference that can't be read, or placeholders that do not match the references.
        """
        _check_count(k)
        references, descriptions = as_queries(reference, description)
        if not descriptions:
            return []
        features = self._query_features(references, descriptions, method)
        hide = [
            [] if keep_reference else [self._row[name] for picture in group for name in self.names_of(picture)]
            for group in references
        ]
        hits = self.nearest(features, k, hide, exact)
        return hits[0] if isinstance(description, str) else hits

    def nearest(
        self, queries: Tensor, k: int = 10, hidden: Sequence[Sequence[int]] | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """Hits of unit query features [Q, E]; hidden: rows of the gallery that each query must not find."""
        _check_count(k)
        hidden = hidden or [()] * len(queries)
        count = min(k + max(map(len, hidden), default=0), len(self))
        if self._approximate is None or exact:
            indices, scores = nearest(queries, self._rows, count)
        else:
            index, options = self._approximate
            indices, scores = approximate.search(index, self.features, queries, count, options.candidates)
        return [
            self._hits(rows.tolist(), values.tolist(), set(out), k)
            for rows, values, out in zip(indices, scores, hidden)
        ]

    def approximate(self, factory: str, parameters: str = "", **options: Any) -> float:
        """Searches by a FAISS index from now on; built once and kept with the features. Returns its recall@10.

        factory: as ApproximateOptions has it and the others, or the file of an index that FAISS or autofaiss built from
        these rows in their order. Raises UserError if FAISS is missing or refuses them.
        """
        chosen = ApproximateOptions(factory, parameters, **options)
        if os.path.isfile(factory):
            name = "-".join(map(str, file_state(factory)))
            index = approximate.read(factory, self.features.shape, chosen)
        else:
            name = re.sub(r"[^A-Za-z0-9]+", "-", factory)
            path = self.store.folder / f"{self.store.identity}.{name}.faiss"
            index = approximate.load(path, chosen)
            if index is None:
                index = approximate.build(self.features, chosen)
                approximate.save(index, path)
        self._approximate = index, chosen
        known = self.store.folder / f"{self.store.identity}.{name}.json"
        self.recall = self._measured_recall(index, chosen, known)
        return self.recall

    def export(self, path: str | Path, part: int = 0) -> list[Path]:
        """Paths and features as search/export.py writes them; returns the files written."""
        names = [os.fspath(self.files.path(name)) for name in self.names]
        return export(Path(path), names, self.features, self._about, part)

    def row(self, name: str) -> int:
        return self._row[name]

    def path(self, name: str) -> Path | Packed:
        """The file of an indexed name; KeyError for any other name, so nothing outside the gallery is ever named."""
        return self.files.path(self.names[self._row[name]])

    def thumbnail(self, name: str) -> bytes | None:
        """A small JPEG of an indexed picture, kept or made now; None if its file can't be read any more.

        KeyError for a name that is not indexed.
        """
        path, state = self.path(name), self.files.states[name]
        content = self._thumbnails.read(name, state)
        if content is None:
            with contextlib.suppress(BrokenImage):
                content = thumbnail(as_image(read_picture(path, partial(open_scaled, at_least=SMALL))))
                self._thumbnails.write(name, state, content)
        return content

    def _measured_recall(self, index: Any, options: ApproximateOptions, path: Path) -> float:
        """Kept beside the index, by search parameters; printed when it is measured."""
        known = read_json(path, {str: float}, "delete it") if path.is_file() else {}
        key = json.dumps(asdict(options), sort_keys=True)
        if key not in known:
            queries = approximate.sample_queries(self.features, options)
            known[key] = approximate.recall(index, self.features, queries, options.candidates)
            write_text(path, json.dumps(known, indent=1) + "\n")
            found = f"recall@{RECALL_AT} against exact search {known[key]:.4f}"
            print(f"{options.factory} {options.parameters}: {found} ({len(queries)} gallery images as queries)")
        return known[key]

    def _hits(self, rows: list[int], scores: list[float], hidden: set[int], k: int) -> list[Hit]:
        kept = [(row, score) for row, score in zip(rows, scores) if row >= 0 and row not in hidden][:k]
        return [
            Hit(Path(self.files.path(self.names[row])), score, rank, self.names[row])
            for rank, (row, score) in enumerate(kept, start=1)
        ]

    def names_of(self, picture: Picture) -> list[str]:
        """The names that a file has in this gallery, if it is one of its."""
        if not isinstance(picture, str | os.PathLike):
            return []
        path, root = Path(picture).resolve(), self.files.root.resolve()
        inside = [path.relative_to(root).as_posix()] if path.is_relative_to(root) else []
        return [name for name in [*inside, str(path)] if name in self]
