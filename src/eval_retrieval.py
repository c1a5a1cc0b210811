"""Evaluates mappers on a composed image retrieval benchmark: a table, and files with every number.

Toy world, on the CPU, in seconds:   python src/eval_retrieval.py --eval-mode cirr
The newest run or the shipped toy checkpoint is taken; name others:
    python src/eval_retrieval.py --eval-mode cirr --resume logs/RUN/checkpoints/last.pt --output cirr.json
Every benchmark at hand, with intervals: python src/eval_retrieval.py --eval-mode all --intervals --output all.json
Published checkpoint, one GPU (data/README.md says how to get the data):
    python src/eval_retrieval.py --openai-pretrained --resume CKPT --eval-mode cirr --gpu 0
    python src/eval_retrieval.py --openai-pretrained --resume CKPT --eval-mode fashion --source dress --gpu 0
    python src/eval_retrieval.py --openai-pretrained --resume CKPT --eval-mode cirr_test --submission-dir DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from context_i2w.benchmarks import BENCHMARKS, Benchmark
from context_i2w.benchmarks.protocols import PROTOCOLS, under
from context_i2w.errors import UserError, exit_on_user_error
from context_i2w.evaluation.evaluate import Result, evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.evaluation.intervals import intervals
from context_i2w.evaluation.options import ALL, make_parser, of_benchmark, protocol_options
from context_i2w.evaluation.report import as_json, summary, table, write_json, write_rankings, write_submissions
from context_i2w.evaluation.setup import (
    Models,
    choose_checkpoints,
    choose_data_root,
    choose_device,
    choose_protocol,
    load_models,
)
from context_i2w.files import check_writable
from context_i2w.model.queries import parse_method


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    arguments = make_parser(__doc__.splitlines()[0]).parse_args(argv)
    encoding = check(arguments)
    if arguments.eval_mode != ALL:
        protocol_options(arguments.eval_mode, arguments)  # before anything is loaded
    device = choose_device(arguments.gpu, arguments.device)
    paths = choose_checkpoints(arguments.resume)
    pretrained = "openai" if arguments.openai_pretrained else arguments.pretrained
    models = load_models(paths, arguments.model, pretrained, device)
    data_root = choose_data_root(arguments.data_root, models.clip)
    setting = {
        **models.about,
        "data_root": str(data_root),
        "device": str(device),
        "precision": encoding.precision,
    }
    if arguments.eval_mode == ALL:
        evaluate_all(arguments, encoding, models, setting)
        return
    benchmark = load(arguments.eval_mode, arguments, models, data_root)
    if arguments.submission_dir and benchmark.submission is None:
        raise UserError(f"--submission-dir: {arguments.eval_mode} has its answers; give it with --eval-mode cirr_test")
    result = evaluate(benchmark, models.clip, models.mappers, encoding, arguments.methods)
    content = report(result, arguments, setting)
    if arguments.output:
        write_json(content, Path(arguments.output))
    if arguments.rankings:
        write_rankings(result, Path(arguments.rankings))


def load(mode: str, arguments: argparse.Namespace, models: Models, data_root: str | Path) -> Benchmark:
    """The benchmark under the protocol asked for, else the checkpoint's."""
    protocol = choose_protocol(arguments.protocol, models)
    options = protocol_options(mode, of_benchmark(mode, arguments), PROTOCOLS[protocol].options)
    return under(BENCHMARKS[mode].load(data_root, options), protocol, arguments.preparation)


def evaluate_all(
    arguments: argparse.Namespace, encoding: EncodingOptions, models: Models, setting: dict[str, Any]
) -> None:
    """Every benchmark at hand, a table each and a summary; goes on when one fails, and raises UserError at the end.

    CIRR's test, which has no answers, only with --submission-dir.
    """
    results, contents, absent, failed = {}, {}, {}, {}
    for mode in [mode for mode in BENCHMARKS if mode != "cirr_test" or arguments.submission_dir]:
        try:
            benchmark = load(mode, arguments, models, setting["data_root"])
            results[mode] = evaluate(benchmark, models.clip, models.mappers, encoding, arguments.methods)
        except UserError as error:
            (absent if str(error).startswith("no ") else failed)[mode] = str(error)
            continue
        contents[mode] = report(results[mode], arguments, setting)
        print()
        if arguments.output:  # after each, so that hours are not lost
            rest = {"not at hand": absent, "failed": failed}
            write_json({"benchmark": ALL, "benchmarks": contents, **rest}, Path(arguments.output))
    for title, reasons in (("not at hand", absent), ("failed", failed)):
        print("".join(f"{mode}: {title}, {reason}\n" for mode, reason in reasons.items()), end="")
    if arguments.rankings:
        write_rankings(results, Path(arguments.rankings))
    if results:
        print("\n" + summary(results))
    if failed or not results:
        raise UserError(f"failed: {', '.join(failed)}" if failed else f"no benchmark in {setting['data_root']}")


def report(result: Result, arguments: argparse.Namespace, setting: dict[str, Any]) -> dict[str, Any]:
    """Prints the table and writes submission files; returns the JSON."""
    bounds = intervals(result) if arguments.intervals else None
    print(table(result, bounds))
    if result.submissions:
        for path in write_submissions(result, Path(arguments.submission_dir or "submissions")):
            print(f"wrote {path}")
    return as_json(result, setting if bounds is None else setting | {"intervals": bounds})


def check(arguments: argparse.Namespace) -> EncodingOptions:
    """What can be seen to be wrong before anything is loaded."""
    if arguments.openai_pretrained and arguments.pretrained:
        raise UserError("--openai-pretrained and --pretrained exclude each other; leave one out")
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size}: at least 1 is needed")
    if arguments.workers is not None and arguments.workers < 0:
        raise UserError(f"--workers {arguments.workers}: 0 or more are needed")
    outputs = {"--output": arguments.output, "--rankings": arguments.rankings}
    for option, path in outputs.items():
        if path:
            check_writable(Path(path), option)
    for method in arguments.methods:
        parse_method(method)
    cache = Path(arguments.feature_cache) if arguments.feature_cache else None
    return EncodingOptions(arguments.batch_size, arguments.workers, arguments.precision, cache)


if __name__ == "__main__":
    main()
