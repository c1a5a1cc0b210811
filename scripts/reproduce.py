"""Runs all tasks for a checkpoint and writes the paper's tables: our figure / the published one (difference).

    python scripts/reproduce.py --resume CKPT
    python scripts/reproduce.py --resume CONTEXT_I2W_CKPT --resume PIC2WORD_CKPT --output reproduction.md

A task whose data is not there is shown as not run, with the reason. CIRR's test answers are not public: its two
submission files are written for each row, to be uploaded to its server.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.base import Benchmark
from context_i2w.checkpoints.files import read_checkpoint
from context_i2w.command_line import Parser
from context_i2w.errors import UserError, exit_on_user_error
from context_i2w.evaluation.evaluate import BASELINES, ONLY, Result, evaluate, row_name
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.evaluation.paper_tables import TABLES, Results, compared
from context_i2w.evaluation.report import protocol_line, versions, write_submissions
from context_i2w.evaluation.setup import Models, choose_device, load_models

PAPER_NAMES = {"context-i2w": "Context-I2W", "pic2word": "Pic2Word"}


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python scripts/reproduce.py", description=__doc__.split("\n")[0])
    parser.add_argument("--resume", action="append", required=True, metavar="CKPT", help="a checkpoint; repeatable")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="folder of the benchmarks")
    parser.add_argument("--output", default="reproduction.md", metavar="FILE.md", help="the tables")
    parser.add_argument("--submission-dir", default="submissions", metavar="DIR", help="CIRR's submission files")
    parser.add_argument("--device", help="cpu or cuda; a GPU if there is one")
    parser.add_argument("--batch-size", type=int, default=64, help="images per vision pass")
    args = parser.parse_args(argv)
    models = named_as_in_the_paper(args.resume, choose_device(None, args.device))
    parts = [f"# The paper's tables\n\nEach cell: ours / published (difference), percent. {_about(models)}"]
    for table in TABLES:
        try:
            benchmark = BENCHMARKS[table.mode].load(args.data_root, None)
            result = as_in_the_paper(benchmark, models, EncodingOptions(args.batch_size))
        except UserError as error:
            parts.append(f"{compared(table, None)}\n\nNot run: {error}.")
            continue
        parts.append(f"{compared(table, results_of(result))}\n\nProtocol: {protocol_line(benchmark.protocol)}.")
        if result.submissions:
            files = write_submissions(result, Path(args.submission_dir))
            parts.append(f"Submission files in {args.submission_dir}: {', '.join(path.name for path in files)}.")
    text = "\n\n".join(parts) + "\n"
    Path(args.output).write_text(text)
    print(text)
    print(f"wrote {args.output}")


def named_as_in_the_paper(paths: Sequence[str], device: torch.device) -> Models:
    """The checkpoints' mappers under the paper's row names. Raises UserError for two of one kind."""
    names = [PAPER_NAMES.get(read_checkpoint(path).mapper_name, Path(path).stem) for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"--resume: {', '.join(names)}; give one checkpoint of each mapper")
    models = load_models([Path(path) for path in paths], None, None, device)
    return Models(models.clip, dict(zip(names, models.mappers.values(), strict=True)), models.about)


def as_in_the_paper(benchmark: Benchmark, models: Models, options: EncodingOptions) -> Result:
    """The paper's methods, a mapper's row bearing the mapper's name."""
    result = evaluate(benchmark, models.clip, models.mappers, options, (*BASELINES, ONLY))
    for rows in (*result.metrics.values(), result.submissions):
        for mapper in models.mappers:
            if row_name(ONLY, mapper) in rows:
                rows[mapper] = rows.pop(row_name(ONLY, mapper))
    return result


def results_of(result: Result) -> Results | None:
    """The metrics, or None for a test whose answers are not public."""
    return None if result.submissions else result.metrics


def _about(models: Models) -> str:
    files = ", ".join(f"{c['path']} ({c['sha256'][:12]})" for c in models.about["checkpoints"].values())
    return f"Checkpoints: {files}; CLIP {models.clip.name}; torch {versions()['torch']}."


if __name__ == "__main__":
    main()
