"""Approximate search by FAISS (an optional extra: `pip install faiss-cpu`), for galleries beyond a few million images.

Factory strings are FAISS's own: "Flat", "IVF1024,PQ64" (PQ's number must divide the feature width), "HNSW32".
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from context_i2w.errors import UserError
from context_i2w.files import atomic_path, checksum, note
from context_i2w.ranking.exact import top_indices
from context_i2w.ranking.similarity import REMOVED
from context_i2w.search.nearest import nearest

BLOCK = 1 << 16  # rows added at once
RECALL_AT = 10
QUERIES = 64  # at once
END = 4  # bytes of a checksum


@dataclass(frozen=True)
class ApproximateOptions:
    """How FAISS builds and searches."""

    factory: str  # FAISS's factory string
    parameters: str = ""  # at search, e.g. "nprobe=32" (IVF) or "efSearch=128" (HNSW)
    candidates: int = 10  # times the results asked for are proposed; their exact similarities then decide
    training: int = 200_000  # gallery rows, drawn by `seed`, that cells and codes are learned from
    queries: int = 200  # gallery rows that recall is measured with
    seed: int = 0


def build(features: np.ndarray, options: ApproximateOptions) -> Any:
    """A FAISS index over the unit rows [n, E], by inner product. Raises UserError if FAISS refuses the options."""
    faiss = _faiss()
    with _refusals(f"FAISS refuses {options.factory!r} for {features.shape}"):
        index = faiss.index_factory(features.shape[1], options.factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(_sample(features, options.training, options.seed))
        for start in range(0, len(features), BLOCK):
            index.add(np.ascontiguousarray(features[start : start + BLOCK]))
    return set_parameters(index, options)


def set_parameters(index: Any, options: ApproximateOptions) -> Any:
    """The index, to be searched as the options say."""
    if options.parameters:
        with _refusals(f"FAISS refuses {options.parameters!r}"):
            _faiss().ParameterSpace().set_index_parameters(index, options.parameters)
    return index


def load(path: Path, options: ApproximateOptions) -> Any | None:
    """None if there is none that is undamaged; FAISS itself would read anything."""
    faiss = _faiss()
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        return None
    if len(content) < END or checksum(content[:-END]) != int.from_bytes(content[-END:].tobytes(), "little"):
        note(f"{path}: damaged, or of an earlier version; made anew")
        return None
    return set_parameters(faiss.deserialize_index(content[:-END]), options)


def read(path: str, shape: tuple[int, ...], options: ApproximateOptions) -> Any:
    """Another program's index over rows of this shape, by inner product. Raises UserError if it is none."""
    faiss = _faiss()
    with _refusals(f"{path}: FAISS can't read it, build it anew"):
        index = faiss.read_index(path)
    if (index.ntotal, index.d) != shape or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        kind = "inner product" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "another distance"
        found = f"{index.ntotal} rows of {index.d} numbers by {kind}"
        raise UserError(f"{path}: {found}; the gallery has {shape[0]} of {shape[1]}, by inner product: build it anew")
    return set_parameters(index, options)


def save(index: Any, path: Path) -> None:
    """FAISS's own format, and its checksum behind it."""
    content = _faiss().serialize_index(index)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.write(checksum(content).to_bytes(END, "little"))


def search(
    index: Any, features: np.ndarray, queries: Tensor, count: int, candidates: int = 10
) -> tuple[Tensor, Tensor]:
    """Indices [Q, k] (-1: none found) and exact similarities [Q, k] of the best among FAISS's candidates."""
    count = min(count, len(features))
    parts = [_search(index, features, part, count, candidates) for part in queries.cpu().float().split(QUERIES)]
    indices, scores = map(torch.cat, zip(*parts))
    return indices, scores


def _search(index: Any, features: np.ndarray, queries: Tensor, count: int, candidates: int) -> tuple[Tensor, Tensor]:
    _, found = index.search(queries.contiguous().numpy(), min(count * candidates, len(features)))
    found = torch.from_numpy(found).sort(dim=1).values  # ascending, so that equal similarities come in that order
    rows = torch.from_numpy(features[found.clamp(min=0).numpy()])  # [Q, candidates, E]
    scores = torch.einsum("qe,qce->qc", queries.double(), rows.double()).float().masked_fill(found < 0, REMOVED)
    best = top_indices(scores, count)
    order = best.clamp(min=0)
    return found.gather(1, order).masked_fill(best < 0, -1), scores.gather(1, order)


def recall(index: Any, features: np.ndarray, queries: Tensor, candidates: int = 10, count: int = RECALL_AT) -> float:
    """Share of the exact top `count` of the queries [Q, E] that is in the approximate top `count`."""
    exact, _ = nearest(queries, features, count)
    found, _ = search(index, features, queries, count, candidates)
    hits = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(exact, found, strict=True)]
    return sum(hits) / exact.numel()


def sample_queries(features: np.ndarray, options: ApproximateOptions) -> Tensor:
    """Gallery rows as queries: each finds itself, which is one of the ten."""
    return torch.from_numpy(_sample(features, options.queries, options.seed + 1))


def _sample(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    if len(features) <= count:
        return np.ascontiguousarray(features)
    chosen = np.random.default_rng(seed).choice(len(features), count, replace=False)
    return np.ascontiguousarray(features[np.sort(chosen)])


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        remedy = "`pip install faiss-cpu`, or leave the factory out (search is then exact)"
        raise UserError(f"approximate search needs FAISS: {remedy}") from None
    return faiss


@contextlib.contextmanager
def _refusals(said: str) -> Iterator[None]:
    """FAISS's errors as a UserError: what is said, and FAISS's message without the place in its sources."""
    try:
        yield
    except (RuntimeError, TypeError) as error:  # a TypeError for text that is not UTF-8
        reason = str(error).strip().splitlines()[-1].split("Error: ")[-1].removeprefix("'")
        raise UserError(f"{said}: {reason}") from None
