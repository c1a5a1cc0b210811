"""Ranking of a benchmark of i-CIR's size: 750,000 made embeddings in 202 instances, 1,883 queries, top 50 and mAP.

    python scripts/measure/instances.py --threads 1
    python scripts/measure/instances.py --device cuda --width 768

One row by cosine similarity and one by the product of two; seconds, and bytes held beside the embeddings. With one
thread on the CPU the seconds are that thread's own. An instance is compared with a plain loop over a full matrix.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from benchmarking.options import MeasureOptions
from context_i2w.command_line import option, parse
from context_i2w.errors import exit_on_user_error

if TYPE_CHECKING:
    import torch

    from context_i2w.ranking.exact import Ranking

INSTANCES, QUERIES, SMALLEST, LARGEST, POSITIVES = 202, 1883, 951, 10_045, 127


@dataclass(frozen=True)
class InstanceOptions(MeasureOptions):
    gallery: int = option(750_000, "embeddings", at_least=INSTANCES)
    width: int = option(512, "of an embedding; 768 for ViT-L/14", at_least=1)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(InstanceOptions, argv, prog="python scripts/measure/instances.py", description=__doc__)
    import torch  # --help does without

    from benchmarking.timing import added_memory, clock_for, machine, start, synchronise
    from context_i2w.evaluation.report import write_json
    from context_i2w.ranking.exact import Ranking
    from context_i2w.ranking.metrics import average_precisions

    device = start(asked)
    report: dict[str, Any] = {"machine": machine(device), "gallery": asked.gallery, "width": asked.width}
    generator = torch.Generator().manual_seed(0)
    spans, positives = made_instances(asked.gallery, generator)
    gallery = made_embeddings(asked.gallery, asked.width, generator).to(device)
    image, text = (made_embeddings(QUERIES, asked.width, generator).to(device) for _ in range(2))
    rows = {"cosine": None, "product": (text, gallery)}
    for name, second in rows.items():
        compute = lambda second=second: score(Ranking(image, gallery, candidates=spans, second=second), positives)  # noqa: E731
        memory, clock = added_memory(compute, device), clock_for(device)
        started = clock()
        metrics = compute()
        synchronise(device)
        report[name] = {"seconds": clock() - started, "added MB": memory and memory / 1e6, "mAP": metrics["mAP"]}
    query = 0
    part = gallery[spans[query].start : spans[query].stop]
    ranking = Ranking(image[:1], gallery, candidates=spans[:1])
    order = (image[query].double() @ part.double().T).float().cpu().argsort(descending=True, stable=True)
    ranks = sorted((order == index - spans[query].start).nonzero().item() + 1 for index in positives[query])
    assert ranking.ranks_of(positives[:1])[0].tolist() == ranks
    report["checked"] = float(average_precisions(torch.tensor([ranks]))[0])
    print(json.dumps(report, indent=2))
    if asked.output:
        write_json(report, asked.output)


def score(ranking: Ranking, positives: Sequence[Sequence[int]]) -> dict[str, float]:
    from context_i2w.ranking.metrics import mean_average_precision_by_instance

    ranking.top(50)
    instances = [str(span.start) for span in ranking.candidates]
    return mean_average_precision_by_instance(ranking.ranks_of(positives), instances)


def made_instances(gallery: int, generator: torch.Generator) -> tuple[list[range], list[list[int]]]:
    """Each query's part of the gallery, of i-CIR's sizes, and its positives in it."""
    import torch

    sizes = torch.rand(INSTANCES, generator=generator).pow(2) * (LARGEST - SMALLEST) + SMALLEST
    ends = [0, *accumulate((sizes / sizes.sum() * gallery).long().tolist())]
    parts = [range(*pair) for pair in pairwise(ends)]
    spans = [parts[query * INSTANCES // QUERIES] for query in range(QUERIES)]
    counts = torch.randint(1, POSITIVES + 1, (QUERIES,), generator=generator).tolist()
    return spans, [
        (span.start + torch.randperm(len(span), generator=generator)[:count]).tolist()
        for span, count in zip(spans, counts, strict=True)
    ]


def made_embeddings(count: int, width: int, generator: torch.Generator) -> torch.Tensor:
    import torch
    from torch.nn.functional import normalize

    features = torch.empty(count, width)
    for part in features.split(1 << 16):
        part.copy_(normalize(torch.randn(part.shape, generator=generator), dim=1))
    return features


if __name__ == "__main__":
    main()
