"""Evaluates mappers on a composed image retrieval benchmark: a table, and files with every number.

Toy world, on the CPU, in seconds:   python src/eval_retrieval.py --eval-mode cirr
The newest run or the shipped toy checkpoint is taken; name others:
    python src/eval_retrieval.py --eval-mode cirr --resume logs/RUN/checkpoints/last.pt --output cirr.json
Published checkpoint, one GPU (data/README.md says how to get the data):
    python src/eval_retrieval.py --openai-pretrained --resume CKPT --eval-mode cirr --gpu 0
    python src/eval_retrieval.py --openai-pretrained --resume CKPT --eval-mode fashion --source dress --gpu 0
    python src/eval_retrieval.py --openai-pretrained --resume CKPT --eval-mode cirr_test --submission-dir DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.protocols import PROTOCOLS, under
from context_i2w.errors import UserError, exit_on_user_error
from context_i2w.evaluation.evaluate import evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.evaluation.options import make_parser, protocol_options
from context_i2w.evaluation.report import as_json, table, write_json, write_rankings, write_submissions
from context_i2w.evaluation.setup import (
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
    protocol_options(arguments.eval_mode, arguments)  # before anything is loaded
    device = choose_device(arguments.gpu, arguments.device)
    paths = choose_checkpoints(arguments.resume)
    pretrained = "openai" if arguments.openai_pretrained else arguments.pretrained
    models = load_models(paths, arguments.model, pretrained, device)
    data_root = choose_data_root(arguments.data_root, models.clip)
    protocol = choose_protocol(arguments.protocol, models)
    options = protocol_options(arguments.eval_mode, arguments, PROTOCOLS[protocol].options)
    benchmark = BENCHMARKS[arguments.eval_mode].load(data_root, options)
    benchmark = under(benchmark, protocol, arguments.preparation)
    if arguments.submission_dir and benchmark.submission is None:
        raise UserError(f"--submission-dir: {arguments.eval_mode} has its answers; give it with --eval-mode cirr_test")
    result = evaluate(benchmark, models.clip, models.mappers, encoding, arguments.methods)
    print(table(result))
    if arguments.output:
        setting = {
            **models.about,
            "data_root": str(data_root),
            "device": str(device),
            "precision": encoding.precision,
        }
        write_json(as_json(result, setting), Path(arguments.output))
    if arguments.rankings:
        write_rankings(result, Path(arguments.rankings))
    if result.submissions:
        for path in write_submissions(result, Path(arguments.submission_dir or "submissions")):
            print(f"wrote {path}")


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
