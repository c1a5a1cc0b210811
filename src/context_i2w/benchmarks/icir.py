"""i-CIR, beyond the paper: one particular thing in another context, among hard negatives gathered for it.

Files:
    icir/query_files.csv, icir/database_files.csv    no header; image_path,text,instance
    icir/query/, icir/database/                      the images; paths begin at the folder that holds `icir/`
A query ranks the database lines of its own instance, none removed; those of its text too are its positives.
Source: arXiv 2510.25387.
"""

from __future__ import annotations

import csv
import itertools
import os
from pathlib import Path
from typing import NamedTuple

from context_i2w.benchmarks.base import REMEDY, Benchmark, QueryGroup, find_file, find_folders, places, some
from context_i2w.benchmarks.options import PROMPTS, ICIROptions
from context_i2w.errors import UserError
from context_i2w.files import FileName, misfit, shown
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import mean_average_precision_by_instance


class Line(NamedTuple):
    image: str  # path, from the folder that holds `icir/`
    text: str
    instance: str


def load(data_root: str | os.PathLike, options: ICIROptions) -> Benchmark:
    """1,883 queries over about 750,000 images of 202 instances in the public data. Raises UserError."""
    folder = find_folders(data_root, ("icir",), "i-CIR")[0]
    query_list = find_file([folder / "query_files.csv"], "i-CIR queries")
    queries = read_list(query_list)
    database = read_list(find_file([folder / "database_files.csv"], "i-CIR database"))
    instances = places(line.instance for line in database)  # each a part of the gallery, in the order of the file
    database = [database[place] for place in itertools.chain.from_iterable(instances.values())]
    ends = itertools.accumulate(map(len, instances.values()))
    spans = {name: range(end - len(lines), end) for (name, lines), end in zip(instances.items(), ends)}
    for query in queries:
        if query.instance not in spans:
            raise UserError(f"{query_list}: {query.image}: no database line of instance {query.instance!r}; {REMEDY}")
    prompt = PROMPTS[options.prompt]
    protocol = {
        "prompt": prompt,
        "prompt variant": options.prompt,
        "gallery": f"the query's instance's part of {len(database)} lines, {len(spans)} instances, nothing removed",
        "metric": "AP of the whole ranking by trapezoids; mAP over queries, mmAP over instances, minmAP of their least",
        "queries": len(queries),
        "image": "shorter side resized, centre crop",
    }
    return Benchmark("icir", [_group(queries, database, spans, folder, prompt)], protocol)


def read_list(path: Path) -> list[Line]:
    """Raises UserError for a line of other than three fields; a text that holds a comma stands in quotes."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, fields) for fields in reader if fields]
    except (csv.Error, ValueError, OSError) as error:
        raise UserError(f"{path}: can't be read as CSV ({error}); {REMEDY}") from None
    for number, fields in some(rows, path):
        if len(fields) != 3 or "\n" in "".join(fields) or misfit(fields[0], FileName):
            trouble = f"`image_path,text,instance` is expected, found {shown(','.join(fields))!r}"
            raise UserError(f"{path}:{number}: {trouble}; put a text that holds a comma or quotes in quotes")
    return [Line(*fields) for _, fields in rows]


def _group(queries: list[Line], database: list[Line], spans: dict[str, range], folder: Path, prompt: str) -> QueryGroup:
    answers = places((line.instance, line.text) for line in database)
    positives = [answers.get((query.instance, query.text), []) for query in queries]
    instances = [query.instance for query in queries]

    def score(ranking: Ranking) -> dict[str, float]:
        return mean_average_precision_by_instance(ranking.ranks_of(positives), instances)

    def source(line: Line) -> ImageSource:
        return ImageSource(os.path.join(folder.parent, line.image))

    return QueryGroup(
        name="all",
        gallery=[source(line) for line in database],
        gallery_names=[line.image for line in database],
        references=[source(query) for query in queries],
        query_ids=[query.image for query in queries],
        prompts=[(fill(prompt, caption=query.text),) for query in queries],
        texts=[(fill("{caption}", caption=query.text),) for query in queries],
        positives=positives,
        score=score,
        candidates=[spans[query.instance] for query in queries],
    )
