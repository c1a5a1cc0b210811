"""Measures search over a large index: exact and by FAISS; time, memory, recall@10. Writes JSON.

The figures of docs/demo.md (100,000 images of ViT-L/14's width; several minutes):
    python scripts/measure/index.py --threads 1 --output docs/index.json
Something small, in seconds:
    python scripts/measure/index.py --images 5000 --width 64 --factories Flat IVF64,PQ16

Features are made: "random" rows share nothing and are the worst case for an approximate index, "clustered" rows lie
around 1,000 centres as pictures of a thousand kinds would. Queries are drawn in the same way and are no gallery rows.
Each way runs in a process of its own, with the matrix memory-mapped from disk.
"""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarking.options import FACTORIES, MeasureOptions
from context_i2w.command_line import option, parse
from context_i2w.errors import exit_on_user_error

KINDS = ("random", "clustered")


@dataclass(frozen=True)
class IndexingOptions(MeasureOptions):
    images: int = option(100_000, "rows of the index", at_least=1)
    width: int = option(768, "of a feature", at_least=1)
    kinds: tuple[str, ...] = option(KINDS, "of features", choices=KINDS)
    factories: tuple[str, ...] = option(tuple(FACTORIES), "FAISS factory strings", metavar="TEXT")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(IndexingOptions, argv, prog="python scripts/measure/index.py", description=__doc__)
    from benchmarking.large_index import measure, table  # imports torch, which --help does without
    from context_i2w.evaluation.report import write_json

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")  # others' work makes times longer
    threads = asked.threads or os.cpu_count() or 1
    tables = measure(asked.images, asked.width, asked.kinds, asked.factories, threads)
    for kind, rows in tables.items():
        print(f"\n{kind}, {asked.images:,} images, width {asked.width}\n\n{table(rows)}")
    if asked.output:
        setting = {"images": asked.images, "width": asked.width, "threads": threads, "load_at_start": round(load, 2)}
        setting |= {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        write_json({**setting, "tables": tables}, asked.output)


if __name__ == "__main__":
    main()
