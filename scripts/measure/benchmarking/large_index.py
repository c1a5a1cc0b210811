"""Search over a large index of made features: exact and by FAISS, each way in a process of its own."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarking.options import FACTORIES
from benchmarking.timing import status
from context_i2w import distributed
from context_i2w.evaluation.report import markdown_table
from context_i2w.search import approximate
from context_i2w.search.approximate import ApproximateOptions
from context_i2w.search.nearest import nearest

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
    gallery = torch.from_numpy(np.load(path, mmap_mode="c"))
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
        way = {"way": f"{factory} {parameters}".strip(), **built, **found, **_above(before)}
        rows.append(way | {"recall@10": round(approximate.recall(index, gallery, queries), 4)})
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
    return {"memory_mb": status("RssAnon") / 2**20, "mapped_mb": status("RssFile") / 2**20}


def _above(before: dict[str, float]) -> dict[str, float]:
    return {key: round(value - before[key], 1) for key, value in memory_mb().items()}


def _timed(search: Callable[[torch.Tensor], Any], queries: torch.Tensor) -> float:
    started = time.perf_counter()
    search(queries)
    return 1e3 * (time.perf_counter() - started)


def measure(images: int, width: int, kinds: Sequence[str], factories: Sequence[str], threads: int) -> dict[str, list]:
    """Rows of the table for each kind of features."""
    bar = tqdm(total=len(kinds) * (1 + len(factories)), desc="measuring", unit="way")
    tables: dict[str, list] = {}
    context = multiprocessing.get_context(distributed.START)
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, maxtasksperchild=1) as pool:
        path = Path(folder) / "features.npy"
        for kind in kinds:
            np.save(path, make_rows(images, width, kind, seed=1))
            common = (path, torch.from_numpy(make_rows(QUERIES, width, kind, seed=2)), threads)
            tables[kind] = [pool.apply(measure_exact, common)]
            bar.update()
            for factory in factories:
                tables[kind] += pool.apply(measure_faiss, (*common, factory, FACTORIES.get(factory, ("",))))
                bar.update()
    return tables


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    columns = ["way", "build_s", "file_mb", "memory_mb", "mapped_mb", "query_ms", "query_in_batch_ms", "recall@10"]
    return markdown_table([columns, *([str(row.get(column, "")) for column in columns] for row in rows)])
