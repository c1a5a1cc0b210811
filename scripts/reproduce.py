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
from context_i2w.command_line import Options, nested, option, parse
from context_i2w.errors import UserError, exit_on_user_error
from context_i2w.evaluation.options import DeviceChoice

if TYPE_CHECKING:
    from context_i2w.distributed import Process
    from context_i2w.evaluation.evaluate import Result
    from context_i2w.evaluation.features import EncodingOptions
    from context_i2w.evaluation.paper_tables import PaperTable
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
    machine: DeviceChoice = nested(DeviceChoice, "machine")
    feature_cache: Path | None = option(None, "keep image embeddings here", metavar="DIR")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(ReproductionOptions, argv, prog="python scripts/reproduce.py", description=__doc__.split("\n")[0])
    from context_i2w.evaluation.setup import in_processes  # imports torch, as all below does; --help does without

    in_processes(asked.machine, reproduce, asked)


def reproduce(asked: ReproductionOptions, process: Process) -> None:
    """Every table, written after each benchmark."""
    from context_i2w.evaluation.features import EncodingOptions
    from context_i2w.evaluation.paper_tables import TABLES, compared
    from context_i2w.evaluation.report import protocol_line, versions, write_json, write_submissions
    from context_i2w.evaluation.setup import choose_protocol
    from context_i2w.files import check_writable, write_text

    process.by_first(lambda: check_writable(asked.output, "--output"))
    models = named_as_in_the_papers(asked, process)
    protocol = choose_protocol(asked.protocol, models)
    machine, cache = asked.machine, asked.feature_cache
    encoding = EncodingOptions(machine.batch_size, machine.workers, feature_cache=cache, process=process)
    # Of any kind: the other benchmarks take hours and don't depend on it. Of several processes an error that is not
    # the user's may be one's alone, for which the others would wait: it ends all.
    failures = Exception if process.world == 1 else UserError
    files = ", ".join(f"{c['path']} ({c['sha256'][:12]})" for c in models.about["checkpoints"].values())
    about = f"Checkpoints: {files}; CLIP {models.clip.name}; torch {versions()['torch']}."
    parts = [f"# The published tables\n\nEach cell: ours / published (difference), percent. {about}"]
    content = {"tables": [], **models.about, "data_root": asked.data_root, "versions": versions()}
    for table in TABLES:
        entry = {"title": table.title, "benchmark": table.mode, "published": by_row(table), "results": None}
        content["tables"].append(entry)
        try:
            result = run(table, models, asked.data_root, encoding, protocol)
        except failures as error:
            entry["not run"] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            parts.append(f"{compared(table, None)}\n\nNot run: {entry['not run']}.")
        else:
            found = None if result.submissions else result.metrics  # of a test whose answers are not public
            entry |= {"results": found, "protocol": dict(result.benchmark.protocol)}
            shown = protocol_line(result.benchmark.protocol)
            parts.append(f"{compared(table, found)}\n\n{other_size(table, result)}Protocol: {shown}.")
            if result.submissions:
                files = write_submissions(result, asked.submission_dir)
                parts.append(f"Submission files in {asked.submission_dir}: {', '.join(path.name for path in files)}.")
        if process.is_first:
            write_text(asked.output, "\n\n".join(parts) + "\n")
            write_json(content, asked.output.with_suffix(".json"))
    print("\n\n".join(parts))
    print(f"\nwrote {asked.output} and {asked.output.with_suffix('.json')}")


def run(table: PaperTable, models: Models, data_root: str, encoding: EncodingOptions, protocol: str) -> Result:
    """The paper's methods under the table's protocol, a mapper's row bearing the mapper's name."""
    from context_i2w.benchmarks.protocols import under
    from context_i2w.evaluation.evaluate import BASELINES, ONLY, evaluate, row_name

    kind = BENCHMARKS[table.mode]
    known = {spec.name for spec in fields(kind.options)}
    theirs = {name: value for name, value in PROTOCOLS[protocol].options.items() if name in known}
    benchmark = under(kind.load(data_root, kind.options(**theirs | dict(table.options))), protocol)
    result = evaluate(benchmark, models.clip, models.mappers, encoding, (*BASELINES, "image*text", ONLY))
    for rows in (*result.metrics.values(), result.submissions):
        for mapper in models.mappers:
            if row_name(ONLY, mapper) in rows:
                rows[mapper] = rows.pop(row_name(ONLY, mapper))
    return result


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


def named_as_in_the_papers(asked: ReproductionOptions, process: Process) -> Models:
    """The checkpoints' mappers by their methods' names, φ's by its protocol. Raises UserError for two of one kind."""
    from context_i2w.checkpoints.find import find_checkpoint
    from context_i2w.evaluation.setup import Models, load_models

    files = [find_checkpoint(path) for path in asked.resume]
    kinds = [asked.protocol or f.protocol if f.mapper_name == "phi" else f.mapper_name for f in files]
    names = [PAPER_NAMES.get(kind or "", Path(path).stem) for kind, path in zip(kinds, asked.resume)]
    if len(set(names)) < len(names):
        raise UserError(f"--resume: {', '.join(names)}; give one checkpoint of each mapper")
    paths = [Path(path) for path in asked.resume]
    models = load_models(paths, asked.model, asked.pretrained, process.device)
    return Models(models.clip, dict(zip(names, models.mappers.values(), strict=True)), models.about)


if __name__ == "__main__":
    main()
