"""Measures search over a large index: exact and by FAISS; time, memory, recall@10. Writes JSON.

The figures of docs/demo.md (100,000 images of ViT-L/14's width; several minutes):
    python scripts/measure/index.py --threads 1 --output docs/index.json
Something small, in seconds:
    python scripts/measure/index.py --images 5000 --width 64 --factories Flat IVF64,PQ16

Features are made: "random" rows share nothing and are the worst case for an approximate index, "clustered" rows lie
around 1,000 centres as pictures of a thousand kinds would. Queries are drawn in the same way and are no gallery rows.
Each way runs in a process of its own, with the matrix memory-mapped from disk.
"""

import context_i2w  # noqa: F401  (first: torch's waiting threads then sleep)

# isort: split
import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from context_i2w.command_line import Parser
from context_i2w.errors import exit_on_user_error
from context_i2w.search import approximate
from context_i2w.search.approximate import ApproximateOptions
from context_i2w.search.nearest import nearest

KINDS = ("random", "clustered")
# factory: FAISS's search parameters
FACTORIES = {
    "Flat": ("",),
    "IVF1024,Flat": ("nprobe=16", "nprobe=64"),
    "IVF1024,PQ64": ("nprobe=16", "nprobe=64"),
    "HNSW32": ("efSearch=64", "efSearch=256"),
}
QUERIES = 200
TRAINING = 50_000  # rows that cells and codes are learned from
CENTRES = 1000
SPREAD = 0.8  # length of the part of a clustered row that its centre does not explain, over the centre's


def make_rows(count: int, width: int, kind: str, seed: int) -> np.ndarray:
    """[count, width] unit rows, float32; the centres do not depend on the seed."""
    rng = np.random.default_rng((1, seed))
    rows = rng.standard_normal((count, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if kind == "clustered":
        centres = np.random.default_rng(0).standard_normal((CENTRES, width), dtype=np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        rows = SPREAD * rows + centres[rng.integers(CENTRES, size=count)]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def measure_exact(path: Path, queries: torch.Tensor, threads: int) -> dict[str, Any]:
    """Time and memory of the exact search."""
    torch.set_num_threads(threads)
    before = memory_mb()
    gallery = np.load(path, mmap_mode="c")
    found = search_times(lambda rows: nearest(rows, gallery, 10), queries)
    return {"way": "exact", **found, **_above(before), "recall@10": 1.0}


def measure_faiss(path: Path, queries: torch.Tensor, threads: int, factory: str, all_parameters: Sequence[str]) -> list:
    """Time, memory and recall of a FAISS index, built once, searched with each of the parameters."""
    import faiss

    faiss.omp_set_num_threads(threads)
    torch.set_num_threads(threads)
    gallery = np.load(path, mmap_mode="c")
    file = path.with_name("built.faiss")
    started = time.perf_counter()
    approximate.save(approximate.build(gallery, ApproximateOptions(factory, training=TRAINING)), file)
    built = {"build_s": round(time.perf_counter() - started, 2), "file_mb": round(file.stat().st_size / 1e6, 1)}
    before, rows = memory_mb(), []
    for parameters in all_parameters:
        index = approximate.load(file, ApproximateOptions(factory, parameters))
        found = search_times(lambda part, index=index: approximate.search(index, gallery, part, 10), queries)
        memory = _above(before)
        recall = approximate.recall(index, gallery, queries)
        rows.append(
            {"way": f"{factory} {parameters}".strip(), **built, **found, **memory, "recall@10": round(recall, 4)}
        )
        del index
    return rows


def search_times(search: Callable[[torch.Tensor], Any], queries: torch.Tensor) -> dict[str, float]:
    """Milliseconds: the median of single queries, and per query in batches of 50; after a first, cold one."""
    cold = _timed(search, queries[:1])
    single = sorted(_timed(search, query) for query in queries[:30].split(1))
    batches = [_timed(search, batch) for batch in queries.split(50)]
    return {
        "first_query_ms": round(cold, 2),
        "query_ms": round(single[len(single) // 2], 3),
        "query_in_batch_ms": round(sum(batches) / len(queries), 3),
    }


def memory_mb() -> dict[str, float]:
    """Resident memory now: of the process's own, and file pages that the system may drop at any time (Linux)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    values = {
        key: float(value.split()[0]) / 1024 for key, value in (line.split(":", 1) for line in lines) if "Rss" in key
    }
    return {"memory_mb": values.get("RssAnon", float("nan")), "mapped_mb": values.get("RssFile", float("nan"))}


def _above(before: dict[str, float]) -> dict[str, float]:
    return {key: round(value - before[key], 1) for key, value in memory_mb().items()}


def _timed(search: Callable[[torch.Tensor], Any], queries: torch.Tensor) -> float:
    started = time.perf_counter()
    search(queries)
    return 1e3 * (time.perf_counter() - started)


def measure(arguments: argparse.Namespace, bar: tqdm) -> dict[str, list]:
    """Rows of the table for each kind of features."""
    context = multiprocessing.get_context("spawn")
    tables = {}
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "features.npy"
            np.save(path, make_rows(arguments.images, arguments.width, kind, seed=1))
            queries = torch.from_numpy(make_rows(QUERIES, arguments.width, kind, seed=2))
            common = (path, queries, arguments.threads)
            tables[kind] = [_in_a_process(context, measure_exact, *common)]
            bar.update()
            for factory in arguments.factories:
                tables[kind] += _in_a_process(context, measure_faiss, *common, factory, FACTORIES.get(factory, ("",)))
                bar.update()
    return tables


def _in_a_process(context: Any, work: Callable, *arguments: Any) -> Any:
    with context.Pool(1) as pool:
        return pool.apply(work, arguments)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    columns = ["way", "build_s", "file_mb", "memory_mb", "mapped_mb", "query_ms", "query_in_batch_ms", "recall@10"]
    lines = [columns, ["---"] * len(columns), *([str(row.get(column, "")) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000, help="rows of the index")
    parser.add_argument("--width", type=int, default=768, help="of a feature")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="of features")
    parser.add_argument("--factories", nargs="+", default=list(FACTORIES), help="FAISS factory strings")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that each way may use")
    parser.add_argument("--output", metavar="FILE.json")
    arguments = parser.parse_args(argv)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")  # others' work makes times longer
    with tqdm(total=len(arguments.kinds) * (1 + len(arguments.factories)), desc="measuring", unit="way") as bar:
        tables = measure(arguments, bar)
    for kind, rows in tables.items():
        print(f"\n{kind}, {arguments.images:,} images, width {arguments.width}\n\n{table(rows)}")
    if arguments.output:
        setting = {"images": arguments.images, "width": arguments.width, "threads": arguments.threads}
        setting["load_at_start"] = round(load, 2)
        setting |= {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        Path(arguments.output).write_text(json.dumps({**setting, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
