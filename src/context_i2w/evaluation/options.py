"""The command line of `src/eval_retrieval.py`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.protocols import PREPARATIONS, PROTOCOLS
from context_i2w.command_line import Parser
from context_i2w.errors import UserError
from context_i2w.model.queries import DEFAULT_METHODS, FORMS

ALL = "all"  # in place of a benchmark


def make_parser(description: str) -> Parser:
    parser = Parser(description=description, allow_abbrev=False)
    parser.add_argument(
        "--eval-mode", "--eval_mode", required=True, choices=[*BENCHMARKS, ALL], metavar="TASK",
        help="benchmark: " + ", ".join(BENCHMARKS) + f"; {ALL}: those at hand",
    )  # fmt: skip
    _add_model(parser.add_argument_group("model"))
    _add_methods(parser.add_argument_group("rows"))
    _add_data(parser.add_argument_group("data and protocol"))
    _add_machine(parser.add_argument_group("machine"))
    _add_output(parser.add_argument_group("output"))
    return parser


def protocol_options(benchmark: str, arguments: argparse.Namespace, others: Mapping[str, str] | None = None) -> Any:
    """The benchmark's own options from the command line, then from `others`, those that it has of them.

    Raises UserError for an option of another benchmark.
    """
    kind = BENCHMARKS[benchmark].options
    known = {_flag(kind, field.name): field.name for field in fields(kind)}
    chosen = {flag: value for flag, value in vars(arguments).items() if flag in _variants() and value is not None}
    for flag in chosen:
        if flag not in known:
            raise UserError(f"--{flag.replace('_', '-')} has no meaning for --eval-mode {benchmark}")
    given = {name: value for name, value in (others or {}).items() if name in known.values()}
    return kind(**given | {known[flag]: value for flag, value in chosen.items()})


def of_benchmark(benchmark: str, arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments less the protocol options of other benchmarks, for a run over several."""
    own = {_flag(BENCHMARKS[benchmark].options, field.name) for field in fields(BENCHMARKS[benchmark].options)}
    kept = {flag: value for flag, value in vars(arguments).items() if flag not in _variants() or flag in own}
    return argparse.Namespace(**kept)


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--resume", action="append", metavar="CKPT",
        help="checkpoint of ours or of the published code, or a run's folder; repeat it for a row each. "
        "Default: the newest run under logs/, else the shipped toy checkpoint",
    )  # fmt: skip
    group.add_argument("--openai-pretrained", action="store_true", help="CLIP weights of OpenAI, if CKPT names none")
    group.add_argument("--model", help="CLIP model, e.g. ViT-L/14; default: the one the checkpoint belongs to")
    group.add_argument("--pretrained", metavar="TAG|FILE", help="open_clip tag or local file of CLIP's weights")


def _add_methods(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--methods", nargs="+", metavar="METHOD", default=list(DEFAULT_METHODS), action=_Methods,
        help="how queries are formed, a row each, apart by blanks or commas: " + ", ".join(FORMS),
    )  # fmt: skip


class _Methods(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, [name for value in values for name in value.split(",") if name])


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data-root", help="folder of the benchmarks (default: data, data/toy/test for a toy checkpoint)"
    )
    group.add_argument(
        "--protocol", choices=list(PROTOCOLS),
        help="whose prompts, captions, image preparation and rule for a second `$` (default: as the checkpoint's "
        "file tells, else ours)",
    )  # fmt: skip
    group.add_argument(
        "--preparation", choices=list(PREPARATIONS),
        help="of whole images, in place of the protocol's. "
        + "; ".join(f"{name}: {text}" for name, text in PREPARATIONS.items()),
    )  # fmt: skip
    for flag, (benchmark, field) in _variants().items():
        choices = field.metadata["choices"]
        meaning = "; ".join(f"{name}: {text.replace('%', '%%')}" for name, text in choices.items())
        group.add_argument(
            "--" + flag.replace("_", "-"), choices=list(choices), default=None,
            help=f"{benchmark}: {field.metadata['about']} (default: {field.default}). {meaning}",
        )  # fmt: skip


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--gpu", type=int, metavar="N", help="number of the GPU (leave it out on a machine without)")
    group.add_argument("--device", help="torch device, e.g. cuda:1, cpu, mps (default: a GPU if there is one)")
    group.add_argument("--batch-size", type=int, default=64, help="images per vision pass")
    group.add_argument("--workers", type=int, help="processes that read images (default: by the machine's cores)")
    group.add_argument("--precision", choices=["fp32", "amp"], default="fp32", help="amp: mixed")
    group.add_argument("--feature-cache", metavar="DIR", help="keep image embeddings here; later runs read them")


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output", metavar="FILE.json", help="every number, protocol, hashes and versions")
    group.add_argument(
        "--rankings", metavar="FILE.jsonl",
        help="the top 50 of every query and row, and its scores, which scripts/compare.py compares",
    )  # fmt: skip
    group.add_argument("--intervals", action="store_true", help="95 %% bootstrap intervals over queries")
    group.add_argument(
        "--submission-dir",
        metavar="DIR",
        help="for tests without answers, cirr_test above all (default: submissions)",
    )


def _variants() -> dict[str, tuple[str, Any]]:
    """Flag -> (benchmark, dataclass field) of every protocol variant."""
    kinds = {kind.options: name for name, kind in reversed(BENCHMARKS.items())}
    return {_flag(kind, field.name): (name, field) for kind, name in kinds.items() for field in fields(kind)}


def _flag(kind: type, field: str) -> str:
    """`source` keeps its published name; other variants bear the benchmark's name."""
    return field if field == "source" else f"{kind.__name__.removesuffix('Options').lower()}_{field}"
