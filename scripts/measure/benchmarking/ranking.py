"""Ranking a gallery against a full sort of it, and against what one would pick for it: torch.topk and FAISS."""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarking.timing import added_memory, alternate
from context_i2w.ranking.exact import Ranking

TOP = 50
SORTED_AT_ONCE = 64  # queries: all at once, as published, would take several gigabytes


def full_sort(queries: Tensor, gallery: Tensor) -> Tensor:
    """The published ranking without its matrix of names: every gallery image of every query sorted; the first TOP."""
    parts = [(1 - part @ gallery.T).argsort(dim=-1)[:, :TOP].clone() for part in queries.split(SORTED_AT_ONCE)]
    return torch.cat(parts)


def topk(queries: Tensor, gallery: Tensor) -> Tensor:
    """The first TOP by float32 products, near-ties as they fall."""
    return torch.cat([(part @ gallery.T).topk(TOP, dim=1).indices for part in queries.split(SORTED_AT_ONCE)])


def faiss_search(gallery: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """FAISS's exact index of the gallery, built here; as fast as it gets on the threads that torch has."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery.numpy())
    return lambda queries, _: torch.from_numpy(index.search(queries.numpy(), TOP)[1])


def full_sort_ranks(queries: Tensor, gallery: Tensor, targets: Tensor) -> Tensor:
    """Rank of each target, 1 the best, by finding it in the sorted gallery."""
    ranks = []
    for part, wanted in zip(queries.split(SORTED_AT_ONCE), targets.split(SORTED_AT_ONCE), strict=True):
        order = (1 - part @ gallery.T).argsort(dim=-1)
        ranks.append((order == wanted[:, None]).int().argmax(dim=1) + 1)
    return torch.cat(ranks)


def measure_ranking(gallery: int, queries: int, width: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Seconds, ratios and added memory of the first TOP and of a target's rank in a random gallery."""
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(gallery, width)
    for part in features.split(1 << 16):
        part.copy_(normalize(torch.randn(part.shape, generator=generator), dim=1))
    features = features.to(device)
    asked = normalize(torch.randn(queries, width, generator=generator), dim=1).to(device)
    targets = torch.randint(gallery, (queries,), generator=generator).to(device)
    searches = {"full sort": full_sort, "topk": topk}
    if device.type == "cpu" and importlib.util.find_spec("faiss"):
        searches["FAISS"] = faiss_search(features)
    tops = {name: functools.partial(search, asked, features) for name, search in searches.items()}
    tops["ours"] = lambda: Ranking(asked, features).top(TOP)
    ranks = {
        "full sort": lambda: full_sort_ranks(asked, features, targets),
        "ours": lambda: Ranking(asked, features).ranks(targets),
    }
    rows = {name: _compare(ways, repeats, device) for name, ways in (("top", tops), ("ranks", ranks))}
    return {"gallery": gallery, "queries": queries, "width": width, "tasks": rows}


def _compare(ways: Mapping[str, Callable[[], Tensor]], repeats: int, device: torch.device) -> dict:
    """Others compare float32 products, so near-ties may stand the other way round: the share that is the `same`."""
    found = {name: compute().cpu() for name, compute in ways.items()}
    seconds = alternate(ways, repeats, device)
    memory = added_memory(ways["ours"], device)
    row = {f"{name} seconds": taken for name, taken in seconds.items()}
    row |= {f"{name} / ours": seconds[name] / seconds["ours"] for name in ways if name != "ours"}
    row |= {f"{name} same": float((found[name] == found["ours"]).float().mean()) for name in ways if name != "ours"}
    return row | {"ours added MB": memory and memory / 1e6}
