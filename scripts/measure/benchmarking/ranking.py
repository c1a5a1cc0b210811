"""Ranking a gallery against a full sort of it."""

from collections.abc import Callable
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
    tasks = {
        "top": (lambda: full_sort(asked, features), lambda: Ranking(asked, features).top(TOP)),
        "ranks": (lambda: full_sort_ranks(asked, features, targets), lambda: Ranking(asked, features).ranks(targets)),
    }
    rows = {name: _compare(*pair, repeats, device) for name, pair in tasks.items()}
    return {"gallery": gallery, "queries": queries, "width": width, "tasks": rows}


def _compare(plain: Callable[[], Tensor], ours: Callable[[], Tensor], repeats: int, device: torch.device) -> dict:
    same = float((plain().cpu() == ours().cpu()).float().mean())
    seconds = alternate({"full sort": plain, "ours": ours}, repeats, device)
    memory = added_memory(ours, device)
    return {
        "full sort seconds": seconds["full sort"],
        "ours seconds": seconds["ours"],
        "full sort / ours": seconds["full sort"] / seconds["ours"],
        "ours added MB": memory and memory / 1e6,
        "same": same,  # the sort is of float32 products, so near-ties may stand the other way round
    }
