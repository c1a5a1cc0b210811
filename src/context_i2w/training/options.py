"""The settings of a training run: options of src/main.py, recipes, and where they come from.

Imports nothing that takes time: `--help` reads it.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_i2w.benchmarks.options import BENCHMARKS
from context_i2w.command_line import (
    OptionError,
    Options,
    build,
    describe,
    nested,
    option,
    options_from,
    parse,
    read_config,
)
from context_i2w.data.options import DataOptions
from context_i2w.errors import UserError
from context_i2w.files import is_text, read_json
from context_i2w.model.extensions import find_class
from context_i2w.model.options import MAPPER_OPTIONS, MAPPERS

OBJECTIVES = {
    "contrastive": "context_i2w.training.objective:Contrastive",
    "sigmoid": "context_i2w.training.sigmoid:Sigmoid",
    "text": "context_i2w.training.text_only:TextOnly",
}
TRAINING_TEXTS = ("published", "caption", "mixed")
PRECISIONS = ("fp32", "amp", "bf16")
GLOBAL_BATCHES = {"contrastive": 1024, "sigmoid": 1024, "text": 512}  # of the recipes, over all processes
CONFIG = "config.json"  # of a run

# What the toy world changes, chosen on its dev tasks (docs/evidence.md).
TOY_RECIPE: dict[str, Any] = {
    "lr": 1e-3, "warmup": 50, "epochs": 8, "batch_size": 256, "workers": 0, "training_text": "mixed",
}  # fmt: skip


def usual_precision(on_gpu: bool) -> str:
    """Where --precision is left out."""
    return "amp" if on_gpu else "fp32"


@dataclass(frozen=True)
class NoOptions(Options):
    """Of an objective that has none."""


@dataclass(frozen=True)
class TrainOptions(Options):
    """Options of the loop; the defaults are the paper's recipe where it gives one."""

    epochs: int = option(30, "passes over the data", at_least=1)
    steps: int | None = option(None, "end after so many steps, in place of --epochs", at_least=1)
    batch_size: int = option(128, "pairs in a batch of each process", at_least=1)
    accumulate: int = option(1, "parts of a batch, to save memory; the update stays the same", metavar="K", at_least=1)
    # "amp" is float16 with a gradient scaler on a GPU, bfloat16 on the CPU
    precision: str | None = option(None, "amp on a GPU, fp32 on the CPU if left out", choices=PRECISIONS)
    training_text: str = option(
        "published", "what the pseudo-word is put into: the prompt, the masked caption, both in turn",
        choices=TRAINING_TEXTS,
    )  # fmt: skip
    seed: int = option(0, "of weights, data order, crops and dropout", at_least=0, at_most=2**31 - 1)


@dataclass(frozen=True)
class OptimOptions(Options):
    """Options of AdamW and its schedule; the defaults are the paper's recipe."""

    lr: float = option(1e-5, "peak learning rate", above=0)
    weight_decay: float = option(0.1, "weight decay", flag="wd", at_least=0)
    warmup: int = option(10_000, "steps of linear warm-up", at_least=0)
    schedule: str = option("cosine", "of the learning rate after the warm-up", choices=("cosine", "constant"))
    decay: str = option("published", "what weight decay is for", choices=("published", "all"))
    beta1: float = option(0.9, "AdamW's first beta", at_least=0, at_most=1)
    beta2: float = option(0.98, "AdamW's second beta", at_least=0, at_most=1)
    eps: float = option(1e-6, "AdamW's epsilon", above=0)
    multipliers: Mapping[str, float] = option(
        {}, "on the learning rate of the parameters whose names begin so, as gate=10; repeatable", flag="lr-multiplier"
    )

    def __post_init__(self):
        super().__post_init__()
        for name, factor in self.multipliers.items():
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < float("inf"):
                raise UserError(f"--lr-multiplier {name}={factor}: a factor is expected, for instance gate=10")


@dataclass(frozen=True)
class ModelOptions(Options):
    """Which CLIP, which mapper, which objective."""

    clip: str | None = option(None, "CLIP by open_clip's name, ViT-L/14 if left out", flag="model", metavar="NAME")
    pretrained: str | None = option(None, "CLIP's weights; openai if left out", metavar="TAG|FILE")
    openai_pretrained: bool = option(False, "the same as --pretrained openai")
    mapper: str = option(
        "context-i2w", f"the mapping network: {', '.join(MAPPERS)}, or your own, my_file.py:MyMapper", metavar="NAME"
    )
    mapper_options: Mapping[str, Any] = option({}, "an option of the mapper; repeatable", flag="mapper-option")
    objective: str = option(
        "contrastive", f"what it is trained for: {', '.join(OBJECTIVES)}, or your own, my_file.py:MyObjective",
        metavar="NAME",
    )  # fmt: skip
    objective_options: Mapping[str, Any] = option({}, "an option of the objective; repeatable", flag="objective-option")
    trust_code: bool = option(False, "import the mapper or objective that the resumed checkpoint names by path")

    def __post_init__(self):
        super().__post_init__()
        if self.openai_pretrained and self.pretrained not in (None, "openai"):
            raise UserError("--openai-pretrained and --pretrained exclude each other; leave one out")
        for kind, known in (("mapper", MAPPERS), ("objective", OBJECTIVES)):
            if (name := getattr(self, kind)) not in known and ":" not in name:
                raise OptionError(kind, name, f"unknown; known are {', '.join(known)}, or your own, my_file.py:MyClass")
        if self.mapper in MAPPER_OPTIONS:  # others are seen when their class is imported
            options_from(MAPPER_OPTIONS[self.mapper], self.mapper_options, f"--mapper-option: {self.mapper}")

    @property
    def weights(self) -> str:
        return self.pretrained or "openai"


@dataclass(frozen=True)
class MachineOptions(Options):
    """What it runs on."""

    device: str | None = option(None, "cpu, cuda, cuda:1; every visible GPU if left out")
    processes: int | None = option(
        None, "processes on this machine; one for each GPU if left out", at_least=1, at_most=1024
    )
    compiled: bool = option(False, "torch.compile the mapper and CLIP's vision blocks", flag="compile")


@dataclass(frozen=True)
class FolderOptions(Options):
    """The run's folder: where it is, what is written there and when."""

    logs: str = option("logs", "where run folders are made", also=("--runs-dir",), metavar="DIR")
    name: str | None = option(None, "the run's folder; date, time and mapper if left out")
    resume: str | None = option(
        None, "go on from a checkpoint or run, with its settings; auto: the newest run", metavar="PATH|auto"
    )
    log_every: int = option(20, "steps between logged losses", metavar="STEPS", at_least=1)
    save_frequency: int = option(1, "epochs between checkpoints", metavar="EPOCHS", at_least=1)
    save_minutes: float = option(30.0, "save at least this often", metavar="MIN", at_least=0)
    keep: int = option(3, "epoch checkpoints kept; 0: all", metavar="K", at_least=0)
    wandb: str | None = option(None, "log to Weights & Biases too", metavar="PROJECT")

    def __post_init__(self):
        super().__post_init__()
        for key in ("logs", "name"):
            if not is_text(getattr(self, key) or ""):
                raise OptionError(key, getattr(self, key), "TensorBoard writes only to names in UTF-8")


@dataclass(frozen=True)
class EvaluationOptions(Options):
    """Which benchmarks are evaluated during training, each under its default protocol, and how often."""

    every: int = option(0, "evaluate benchmarks; 0: never", flag="evaluate-every", metavar="EPOCHS", at_least=0)
    tasks: tuple[str, ...] = option(
        ("cirr", "fashion"), "benchmarks of --evaluate-every", flag="evaluate", metavar="TASKS", commas=True,
        choices=tuple(BENCHMARKS),
    )  # fmt: skip
    data_root: str | None = option(None, "the benchmarks' data; data if left out", metavar="DIR")


@dataclass(frozen=True)
class RunSettings(Options):
    """Everything that makes a run; its flat form is the run's config.json."""

    data: DataOptions = nested(DataOptions, "data")
    model: ModelOptions = nested(ModelOptions, "model")
    train: TrainOptions = nested(TrainOptions, "recipe")
    optim: OptimOptions = nested(OptimOptions, "recipe")
    machine: MachineOptions = nested(MachineOptions, "machine")
    folder: FolderOptions = nested(FolderOptions, "run")
    evaluation: EvaluationOptions = nested(EvaluationOptions, "run")

    @property
    def recipe_batch(self) -> int | None:
        """The recipe's global batch; None for an objective of the user's own."""
        wanted = GLOBAL_BATCHES.get(self.model.objective)
        return TOY_RECIPE["batch_size"] if wanted and self.model.clip == "toy" else wanted


def parse_settings(argv: Sequence[str] | None = None) -> RunSettings:
    """Settings from flags, --config or a resumed run, recipes and defaults. One line and exit status 2 for an error."""
    return parse(
        RunSettings,
        argv,
        prog="python src/main.py",
        description="Trains a mapping network for zero-shot composed image retrieval. Without --train-data it trains "
        "on the built-in toy world, evaluates the four tasks and writes a report.",
        recipe=recipe,
        shown={"toy world": TOY_RECIPE},
        more_help=_help_of_mapper,
    )


def settings_of(values: Mapping[str, Any]) -> RunSettings:
    """As `parse_settings`, from values by key. Raises UserError."""
    return build(RunSettings, {**recipe(values), **values})


def recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that go with what was given: the resumed run's settings, or the objective's and the toy world's."""
    resumed = _settings_of_run(given.get("resume"), given.get("logs", "logs"))
    if resumed is not None:
        _check_consent(resumed, given)
        return resumed
    name = given.get("objective", "contrastive")
    kind = None if name == "contrastive" else find_class(name, OBJECTIVES, "objective")
    values = dict(kind.recipe) if kind else {}
    if not given.get("train_data"):
        values = TOY_RECIPE | values | (kind.toy_recipe if kind else {})
    if "epochs" in given:
        values.pop("steps", None)  # what was asked for wins
    return values


def _settings_of_run(resume: str | None, logs: str) -> dict[str, Any] | None:
    """The settings in a run's config.json, where its place, name and machine don't count; None if there are none."""
    from context_i2w.checkpoints.find import checkpoint_to_resume  # takes time to import, and few resume

    if not resume:
        return None
    config = checkpoint_to_resume(resume, Path(logs)).parent.parent / CONFIG
    if not config.is_file():
        return None
    if "columns" in read_json(config, {}, "resume from the checkpoint's file, outside its run"):
        return None  # of a run before settings had one flat form
    here = {"resume", "name", "logs", "device", "processes", "trust_code"}
    return {key: value for key, value in read_config(config, RunSettings).items() if key not in here}


def _check_consent(resumed: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for kind in ("mapper", "objective"):
        if ":" in resumed.get(kind, "") and given.get(kind) != resumed[kind] and not given.get("trust_code"):
            raise UserError(
                f"the resumed run's {kind} {resumed[kind]} is code of its own, which would be imported; if you trust "
                f"it, give --trust-code, or name it with --{kind}"
            )


def _help_of_mapper(argv: Sequence[str]) -> str:
    words = " ".join(argv).replace("--mapper=", "--mapper ").split()
    names = [name for flag, name in itertools.pairwise(words) if flag == "--mapper"]
    name = names[-1] if names else "context-i2w"
    options = MAPPER_OPTIONS.get(name) or find_class(name, MAPPERS, "mapper").Options
    return f"options of the mapper {name} (--mapper-option NAME=VALUE) and their defaults:\n{describe(options)}"
