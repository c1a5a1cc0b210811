"""The options of src/eval_retrieval.py. Imports nothing that takes time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass
from typing import Any

from context_i2w.benchmarks.options import BENCHMARKS, PREPARATIONS, PROTOCOLS
from context_i2w.command_line import OptionError, Options, flat, key_of, nested, option, parse
from context_i2w.errors import UserError
from context_i2w.model.queries import DEFAULT_METHODS, FORMS, parse_method

ALL = "all"  # in place of a benchmark


@dataclass(frozen=True)
class ModelChoice(Options):
    """Which mappers, and which CLIP where they don't say."""

    resume: tuple[str, ...] = option(
        (), "checkpoint of ours or of the published code, a run's or a shared folder, or a hub id; several for a row "
        "each. Left out: with --model or --pretrained CLIP without a mapper, else the newest run under logs/, else "
        "what is shipped for the toy world",
        metavar="CKPT",
    )  # fmt: skip
    openai_pretrained: bool = option(False, "CLIP weights of OpenAI, if CKPT names none")
    model: str | None = option(None, "CLIP model, e.g. ViT-L/14; left out: the one the checkpoint belongs to")
    pretrained: str | None = option(None, "open_clip tag or local file of CLIP's weights", metavar="TAG|FILE")
    trust_code: bool = option(False, "import the mapper of somebody's own that CKPT names by path")

    def __post_init__(self):
        super().__post_init__()
        if self.openai_pretrained and self.pretrained not in (None, "openai"):
            raise UserError("--openai-pretrained and --pretrained exclude each other; leave one out")

    @property
    def is_clip_alone(self) -> bool:
        return not self.resume and bool(self.model or self.pretrained)

    @property
    def weights(self) -> str | None:
        return "openai" if self.openai_pretrained else self.pretrained


@dataclass(frozen=True)
class DeviceChoice(Options):
    """What it runs on."""

    gpu: int | None = option(None, "number of the GPU (leave it out on a machine without)", metavar="N", at_least=0)
    device: str | None = option(None, "torch device, e.g. cuda:1, cpu, mps; left out: a GPU if there is one")
    processes: int = option(
        1, "processes on this machine that share the images, each with a GPU of its own; torchrun starts them too",
        at_least=1, at_most=1024,
    )  # fmt: skip
    batch_size: int = option(64, "images per vision pass", at_least=1)
    workers: int | None = option(
        None, "processes that read images; left out: by the machine's cores", at_least=0, at_most=512
    )

    def __post_init__(self):
        super().__post_init__()
        if self.gpu is not None and self.device is not None:
            raise UserError("--gpu and --device exclude each other; leave one out")
        if self.gpu is not None and self.processes > 1:
            raise UserError("--gpu names one, and --processes takes one for each; leave one of the two out")


@dataclass(frozen=True)
class RowOptions(Options):
    """How queries are formed and whose evaluation it is."""

    methods: tuple[str, ...] = option(
        DEFAULT_METHODS, "how queries are formed, a row each: " + ", ".join(FORMS)
        + "; FILE.json: those that scripts/sweep.py chose", metavar="METHOD", commas=True,
    )  # fmt: skip
    intervals: bool = option(False, "95 % bootstrap intervals over queries")
    protocol: str | None = option(
        None, "whose prompts, captions, image preparation and rule for a second `$`; left out: as the checkpoint's "
        "file tells, else ours", choices=tuple(PROTOCOLS),
    )  # fmt: skip
    preparation: str | None = option(None, "of whole images, in place of the protocol's", choices=PREPARATIONS)

    def __post_init__(self):
        super().__post_init__()
        for method in self.methods:
            if not method.endswith(".json"):
                parse_method(method)


@dataclass(frozen=True)
class OutputOptions(Options):
    """What is written."""

    output: str | None = option(None, "every number, protocol, hashes and versions", metavar="FILE.json")
    rankings: str | None = option(
        None, "the top 50 of every query and row, and its scores, which scripts/compare.py compares",
        metavar="FILE.jsonl",
    )  # fmt: skip
    submission_dir: str | None = option(
        None, "for tests without answers, cirr_test above all; left out: submissions", metavar="DIR"
    )


@dataclass(frozen=True)
class EvaluationSettings(Options):
    """Everything that makes an evaluation but the benchmarks' own protocols."""

    eval_mode: str = option(
        "", f"benchmark: {', '.join(BENCHMARKS)}; {ALL}: those at hand; or your own, my_file.py:MyBenchmark",
        metavar="TASK", required=True,
    )  # fmt: skip
    model: ModelChoice = nested(ModelChoice, "model")
    rows: RowOptions = nested(RowOptions, "rows")
    data_root: str | None = option(None, "folder of the benchmarks; left out: data, for a toy checkpoint data/toy/test")
    machine: DeviceChoice = nested(DeviceChoice, "machine")
    precision: str = option("fp32", "amp: mixed", choices=("fp32", "amp"))
    embedding_cache: str | None = option(
        None, "keep image embeddings here; later runs read them", also=("--feature-cache",), metavar="DIR"
    )
    out: OutputOptions = nested(OutputOptions, "output")

    def __post_init__(self):
        super().__post_init__()
        if self.eval_mode not in BENCHMARKS and self.eval_mode != ALL and ":" not in self.eval_mode:
            known = f"known are {', '.join(BENCHMARKS)}, {ALL}, or your own, my_file.py:MyBenchmark"
            raise OptionError("eval_mode", self.eval_mode, f"unknown; {known}")


@dataclass(frozen=True)
class Evaluation:
    """The settings, and what was given of the benchmarks' protocols, by key."""

    settings: EvaluationSettings
    variants: Mapping[str, Any]

    def options(self, benchmark: str, others: Mapping[str, str]) -> Any:
        """The benchmark's own options: those given, else those of `others` that it has, else its defaults."""
        kind = BENCHMARKS[benchmark].options
        given = {spec.name: others[spec.name] for spec in fields(kind) if spec.name in others}
        given |= {spec.name: self.variants[key_of(spec)] for spec in fields(kind) if key_of(spec) in self.variants}
        return kind(**given)


def parse_evaluation(argv: Sequence[str] | None, description: str) -> Evaluation:
    """From the command line; one line and exit status 2 for an error, an option of another benchmark among them."""
    kinds = list(dict.fromkeys(kind.options for kind in BENCHMARKS.values()))
    parts = [(kind.__name__, kind, nested(kind, "protocols of benchmarks")) for kind in kinds]
    both = make_dataclass("Both", [("settings", EvaluationSettings, nested(EvaluationSettings)), *parts], frozen=True)
    given: dict[str, Any] = {}

    def remember(values: Mapping[str, Any]) -> dict[str, Any]:
        given.update(values)
        return {}

    prog = "python src/eval_retrieval.py"
    settings: EvaluationSettings = parse(
        both, argv, prog=prog, description=description, recipe=remember, checked=_check
    ).settings
    return Evaluation(settings, {key: value for key, value in given.items() if key not in flat(settings)})


def _check(given: Mapping[str, Any]) -> None:
    """Raises OptionError for an option of another benchmark than the one that is asked for."""
    mode = given.get("eval_mode", "")
    own = {key_of(spec) for spec in fields(BENCHMARKS[mode].options)} if mode in BENCHMARKS else set()
    every = {key_of(spec) for kind in BENCHMARKS.values() for spec in fields(kind.options)}
    for key in sorted(given.keys() & every - own if mode != ALL else ()):
        raise OptionError(key, given[key], f"it has no meaning for --eval-mode {mode}")
