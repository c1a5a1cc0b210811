"""What each method of a query costs: CLIP passes and milliseconds for one query, from picture to unit feature.

    python scripts/measure/queries.py --threads 1                 # the shipped toy mappers
    python scripts/measure/queries.py --resume CKPT --rounds 50

Methods take turns, so that a busy machine slows all of them alike; the median counts, with one thread that thread's own
time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, patch

from benchmarking.options import MeasureOptions
from context_i2w.command_line import option, parse
from context_i2w.errors import exit_on_user_error

if TYPE_CHECKING:
    from context_i2w.model.clip import FrozenCLIP
    from context_i2w.search.retriever import Retriever

METHODS = ("image", "text", "image+text", "slerp", "composed", "anchored", "blended:0.5", "blended", "pdv")
PASSES = {"encode_image": "vision", "encode_text": "text", "compose": "composed"}
DESCRIPTION = "is red and at night"


@dataclass(frozen=True)
class QueryOptions(MeasureOptions):
    resume: tuple[str, ...] = option((), "mappers; left out: the shipped toy ones", metavar="CKPT")
    rounds: int = option(30, "queries of each method", at_least=1)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(QueryOptions, argv, prog="python scripts/measure/queries.py", description=__doc__)
    from benchmarking.timing import start  # imports torch, as all below does; --help does without
    from context_i2w.checkpoints.find import shipped_checkpoints
    from context_i2w.search.retriever import Retriever

    for source in asked.resume or shipped_checkpoints():
        print(table(Retriever.load(source, device=start(asked)), asked.rounds), "\n")


def table(retriever: Retriever, rounds: int) -> str:
    from PIL import Image

    from benchmarking.timing import alternate
    from context_i2w.evaluation.report import markdown_table
    from context_i2w.model.queries import DEFAULTS

    methods = [*METHODS, f"{DEFAULTS['pdv']}:plain"]
    size = retriever.clip.sizes.image_size
    picture = Image.effect_noise((2 * size, 2 * size), 60).convert("RGB")
    ways = {
        method: partial(retriever.query_features, [[picture]], [DESCRIPTION], DEFAULTS.get(method, method))
        for method in methods
    }
    passes = {method: counted(retriever.clip, way) for method, way in ways.items()}
    seconds = alternate(ways, rounds, retriever.clip.device)
    rows = [[f"{retriever.mapper_name}, {retriever.clip.name}", *PASSES.values(), "ms"]]
    for method in methods:
        counts = [str(passes[method][name]) for name in PASSES]
        rows.append([DEFAULTS.get(method, method), *counts, f"{1000 * seconds[method]:.1f}"])
    return markdown_table(rows)


def counted(clip: FrozenCLIP, work: Callable[[], Any]) -> dict[str, int]:
    """Rows that pass each of CLIP's towers during the work."""
    towers = {name: Mock(wraps=getattr(clip, name)) for name in PASSES}
    with patch.multiple(clip, **towers):
        work()
    return {name: sum(len(call.args[0]) for call in tower.call_args_list) for name, tower in towers.items()}


if __name__ == "__main__":
    main()
