"""What src/eval_retrieval.py does once its command line is read."""

from pathlib import Path
from typing import Any

from context_i2w.benchmarks import BENCHMARKS, find_benchmark
from context_i2w.benchmarks.base import Benchmark
from context_i2w.benchmarks.options import PROTOCOLS
from context_i2w.benchmarks.protocols import under
from context_i2w.distributed import Process
from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import Result, evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.evaluation.intervals import intervals
from context_i2w.evaluation.options import ALL, Evaluation
from context_i2w.evaluation.report import as_json, summary, table, write_json, write_rankings, write_submissions
from context_i2w.evaluation.setup import (
    choose_checkpoints,
    choose_data_root,
    choose_protocol,
    in_processes,
    load_models,
)
from context_i2w.evaluation.sweep import read_choice, read_methods
from context_i2w.files import check_writable
from context_i2w.model.queries import DEFAULT_METHODS, PLAIN_METHODS
from context_i2w.toy_world.world import is_toy_world


def run(asked: Evaluation) -> None:
    """Evaluates, prints tables, writes files; in the settings' number of processes. Raises UserError."""
    in_processes(asked.settings.machine, _run, asked)


def _run(asked: Evaluation, process: Process) -> None:
    process.by_first(lambda: _check(asked))
    running = _Running(asked, process)
    if asked.settings.eval_mode == ALL:
        running.evaluate_all()
    else:
        running.evaluate_one(asked.settings.eval_mode)


def _check(asked: Evaluation) -> None:
    """Before anything is loaded. Raises UserError."""
    for option, path in (("--output", asked.settings.out.output), ("--rankings", asked.settings.out.rankings)):
        if path:
            check_writable(Path(path), option)
    for method in asked.settings.rows.methods:
        if method.endswith(".json"):
            read_choice(Path(method))
    if asked.settings.eval_mode != ALL:
        find_benchmark(asked.settings.eval_mode)


class _Running:
    """Models, data and settings of one evaluation, in one of its processes."""

    def __init__(self, asked: Evaluation, process: Process):
        self.asked, self.settings, self.process = asked, asked.settings, process
        machine, model = self.settings.machine, self.settings.model
        paths = [] if model.is_clip_alone else process.by_first(lambda: choose_checkpoints(model.resume))
        self.models = load_models(paths, model.model, model.weights, process.device, model.trust_code)
        self.data_root = process.by_first(lambda: choose_data_root(self.settings.data_root, self.models.clip))
        if process.is_first:
            toy = " (the toy world: drawn pictures in the benchmarks' formats)" if is_toy_world(self.data_root) else ""
            print(f"data: {self.data_root}{toy}")
        cache = self.settings.embedding_cache
        self.encoding = EncodingOptions(
            machine.batch_size, machine.workers, self.settings.precision, Path(cache) if cache else None, process
        )
        self.about = {
            **self.models.about,
            "data_root": str(self.data_root),
            "device": str(process.device),
            "precision": self.settings.precision,
        }

    def evaluate_one(self, mode: str) -> None:
        out, benchmark = self.settings.out, self.load(mode)
        if out.submission_dir and benchmark.submission is None:
            raise UserError(f"--submission-dir: {mode} has its answers; give it with --eval-mode cirr_test")
        result = self.evaluate(benchmark)
        if not self.process.is_first:
            return
        content = self.report(result)
        if out.output:
            write_json(content, Path(out.output))
        if out.rankings:
            write_rankings(result, Path(out.rankings))

    def evaluate_all(self) -> None:
        """Every benchmark at hand, a table each and a summary; goes on when one fails, raises UserError at the end.

        CIRR's test, which has no answers, only with --submission-dir.
        """
        out = self.settings.out
        results: dict[str, Result] = {}
        contents: dict[str, Any] = {}
        absent: dict[str, str] = {}
        failed: dict[str, str] = {}
        for mode in [mode for mode in BENCHMARKS if mode != "cirr_test" or out.submission_dir]:
            try:
                results[mode] = self.evaluate(self.load(mode))
            except UserError as error:
                (absent if str(error).startswith("no ") else failed)[mode] = str(error)
            if mode in results and self.process.is_first:
                contents[mode] = self.report(results[mode])
                print()
            if out.output and self.process.is_first:  # after each, so that hours are not lost
                rest = {"not at hand": absent, "failed": failed}
                write_json({"benchmark": ALL, "benchmarks": contents, **rest}, Path(out.output))
        for title, reasons in (("not at hand", absent), ("failed", failed)):
            print("".join(f"{mode}: {title}, {reason}\n" for mode, reason in reasons.items()), end="")
        if out.rankings and self.process.is_first:
            write_rankings(results, Path(out.rankings))
        if results and self.process.is_first:
            print("\n" + summary(results))
        self.process.everyone(None)  # the others rank nothing; ending by an error before the first has written ends it
        if failed or not results:
            raise UserError(f"failed: {', '.join(failed)}" if failed else f"no benchmark in {self.data_root}")

    def load(self, mode: str) -> Benchmark:
        """The benchmark under the protocol asked for, else the checkpoint's."""
        rows = self.settings.rows
        protocol = choose_protocol(rows.protocol, self.models)
        kind, options = find_benchmark(mode), None
        if mode in BENCHMARKS:
            options = self.asked.options(mode, PROTOCOLS[protocol].options)
        return under(kind.load(self.data_root, options), protocol, rows.preparation)

    def evaluate(self, benchmark: Benchmark) -> Result:
        asked = self.settings.rows.methods
        asked = asked if self.models.mappers or asked != DEFAULT_METHODS else PLAIN_METHODS
        methods, self.origin = read_methods(asked, benchmark.name, self.data_root)
        return evaluate(benchmark, self.models.clip, self.models.mappers, self.encoding, methods)

    def report(self, result: Result) -> dict[str, Any]:
        """Prints the table and writes submission files; returns the JSON."""
        bounds = intervals(result) if self.settings.rows.intervals else None
        print(table(result, bounds))
        if result.submissions:
            for path in write_submissions(result, Path(self.settings.out.submission_dir or "submissions")):
                print(f"wrote {path}")
        about = self.about | self.origin
        return as_json(result, about if bounds is None else about | {"intervals": bounds})
