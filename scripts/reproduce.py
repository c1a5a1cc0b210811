"""Runs all benchmarks for a checkpoint and writes the published tables: ours / published (difference), every method.

    python scripts/reproduce.py --resume CKPT --device cuda --workers 8
    python scripts/reproduce.py --resume CONTEXT_I2W_CKPT --resume PIC2WORD_CKPT --output reproduction.md
    python scripts/reproduce.py --resume SEARLE_ViT-L14.pt --protocol searle

A benchmark that is not there or fails is shown as not run, with the reason, and the next one runs. The answers of
CIRR's and CIRCO's tests are not public: submission files are written for each row, to be uploaded to their servers.
The same figures go to a JSON file beside the tables. Both are written after each benchmark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from context_i2w.benchmarks.options import BENCHMARKS, PROTOCOLS
from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from context_i2w.benchmarks.base import Benchmark
    from context_i2w.evaluation.evaluate import Result
    from context_i2w.evaluation.features import EncodingOptions
    from context_i2w.evaluation.paper_tables import PaperTable, Results
    from context_i2w.evaluation.setup import Models

PAPER_NAMES = {"context-i2w": "Context-I2W", "pic2word": "Pic2Word", "searle": "SEARLE", "lincir": "LinCIR"}


@dataclass(frozen=True)
class ReproductionOptions(Options):
    resume: tuple[str, ...] = option((), "a checkpoint; repeatable", metavar="CKPT", required=True)
    model: str | None = option(None, "CLIP by open_clip's name; left out: the checkpoint's", metavar="NAME")
    pretrained: str | None = option(None, "CLIP's weights; left out: the checkpoint's", metavar="TAG|FILE")
    protocol: str | None = option(
        None, "whose prompts and preparation; left out: what the file tells, else ours", choices=tuple(PROTOCOLS)
    )
    data_root: str = option("data", "folder of the benchmarks", metavar="DIR")
    output: Path = option(Path("reproduction.md"), "the tables", metavar="FILE.md")
    submission_dir: Path = option(Path("submissions"), "CIRR's submission files", metavar="DIR")
    device: str | None = option(None, "cpu or cuda; left out: a GPU if there is one")
    batch_size: int = option(64, "images per vision pass", at_least=1)
    workers: int | None = option(
        None, "processes that read images; left out: by the machine's cores", at_least=0, at_most=512
    )
    feature_cache: Path | None = option(None, "keep image embeddings here", metavar="DIR")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    reproduce(parse(ReproductionOptions, argv, prog="python scripts/reproduce.py", description=__doc__.split("\n")[0]))


def reproduce(asked: ReproductionOptions) -> None:
    """Every table, written after each benchmark. Imports here and below are slow; --help does without."""
    from context_i2w.evaluation.features import EncodingOptions
    from context_i2w.evaluation.paper_tables import TABLES, compared
    from context_i2w.evaluation.report import protocol_line, versions, write_json, write_submissions
    from context_i2w.evaluation.setup import choose_protocol
    from context_i2w.files import check_writable, write_text

    check_writable(asked.output, "--output")
    models = named_as_in_the_papers(asked)
    protocol = choose_protocol(asked.protocol, models)
    encoding = EncodingOptions(asked.batch_size, asked.workers, feature_cache=asked.feature_cache)
    parts = [f"# The published tables\n\nEach cell: ours / published (difference), percent. {_about(models)}"]
    content = {"tables": [], **models.about, "data_root": asked.data_root, "versions": versions()}
    for table in TABLES:
        entry = {"title": table.title, "benchmark": table.mode, "published": by_row(table), "results": None}
        content["tables"].append(entry)
        try:
            result = run(table, models, asked.data_root, encoding, protocol)
        except Exception as error:  # of any kind: the other benchmarks take hours and don't depend on it
            entry["not run"] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            parts.append(f"{compared(table, None)}\n\nNot run: {entry['not run']}.")
        else:
            entry |= {"results": results_of(result), "protocol": dict(result.benchmark.protocol)}
            shown = protocol_line(result.benchmark.protocol)
            parts.append(f"{compared(table, results_of(result))}\n\n{other_size(table, result)}Protocol: {shown}.")
            if result.submissions:
                files = write_submissions(result, asked.submission_dir)
                parts.append(f"Submission files in {asked.submission_dir}: {', '.join(path.name for path in files)}.")
        write_text(asked.output, "\n\n".join(parts) + "\n")
        write_json(content, asked.output.with_suffix(".json"))
    print("\n\n".join(parts))
    print(f"\nwrote {asked.output} and {asked.output.with_suffix('.json')}")


def run(table: PaperTable, models: Models, data_root: str, encoding: EncodingOptions, protocol: str = "ours") -> Result:
    from context_i2w.benchmarks.protocols import under

    kind = BENCHMARKS[table.mode]
    known = {spec.name for spec in fields(kind.options)}
    theirs = {name: value for name, value in PROTOCOLS[protocol].options.items() if name in known}
    benchmark = kind.load(data_root, kind.options(**theirs | dict(table.options)))
    return as_in_the_paper(under(benchmark, protocol), models, encoding)


def other_size(table: PaperTable, result: Result) -> str:
    """A warning where there are not as many queries as the table's title says; else nothing."""
    found = re.search(r"([\d,]+) queries", table.title)
    counts = [len(group.query_ids) for group in result.benchmark.groups]
    if not found or int(found[1].replace(",", "")) in (sum(counts), *counts):
        return ""
    return f"**Not the published data: {sum(counts):,} queries here. The differences say nothing about a method.**\n\n"


def by_row(table: PaperTable) -> dict[str, dict[str, dict[str, float]]]:
    """The published figures as `results` stand in the evaluation's JSON: group, row, metric."""
    return {group: {row: table.figures(row)[group] for row in table.published} for group in table.groups}


def named_as_in_the_papers(asked: ReproductionOptions) -> Models:
    """The checkpoints' mappers by their methods' names, φ's by its protocol. Raises UserError for two of one kind."""
    from context_i2w.checkpoints.find import find_checkpoint
    from context_i2w.distributed import device_named
    from context_i2w.evaluation.setup import Models, load_models

    files = [find_checkpoint(path) for path in asked.resume]
    kinds = [asked.protocol or f.protocol if f.mapper_name == "phi" else f.mapper_name for f in files]
    names = [PAPER_NAMES.get(kind or "", Path(path).stem) for kind, path in zip(kinds, asked.resume)]
    if len(set(names)) < len(names):
        raise UserError(f"--resume: {', '.join(names)}; give one checkpoint of each mapper")
    paths = [Path(path) for path in asked.resume]
    models = load_models(paths, asked.model, asked.pretrained, device_named(asked.device))
    return Models(models.clip, dict(zip(names, models.mappers.values(), strict=True)), models.about)


def as_in_the_paper(benchmark: Benchmark, models: Models, options: EncodingOptions) -> Result:
    """The paper's methods, a mapper's row bearing the mapper's name."""
    from context_i2w.evaluation.evaluate import BASELINES, ONLY, evaluate, row_name

    result = evaluate(benchmark, models.clip, models.mappers, options, (*BASELINES, "image*text", ONLY))
    for rows in (*result.metrics.values(), result.submissions):
        for mapper in models.mappers:
            if row_name(ONLY, mapper) in rows:
                rows[mapper] = rows.pop(row_name(ONLY, mapper))
    return result


def results_of(result: Result) -> Results | None:
    """The metrics, or None for a test whose answers are not public."""
    return None if result.submissions else result.metrics


def _about(models: Models) -> str:
    from context_i2w.evaluation.report import versions

    files = ", ".join(f"{c['path']} ({c['sha256'][:12]})" for c in models.about["checkpoints"].values())
    return f"Checkpoints: {files}; CLIP {models.clip.name}; torch {versions()['torch']}."


if __name__ == "__main__":
    main()
