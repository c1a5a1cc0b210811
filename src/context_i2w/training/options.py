"""The command line of src/main.py, made into RunSettings: recipes for the toy world and for Conceptual Captions."""

import argparse
import ast
from collections.abc import Sequence
from typing import Any

import torch

from context_i2w.command_line import Parser
from context_i2w.data.augmentation import ViewOptions
from context_i2w.data.feature_cache import CacheOptions
from context_i2w.data.pairs import ListColumns
from context_i2w.data.shards import ShardOptions
from context_i2w.errors import UserError
from context_i2w.model.fast_images import PREPARATIONS
from context_i2w.model.mappers import MAPPERS
from context_i2w.training.optimiser import OptimOptions
from context_i2w.training.periodic_evaluation import EvaluationOptions
from context_i2w.training.run import RunSettings
from context_i2w.training.train_data import BATCHES
from context_i2w.training.trainer import PRECISIONS, TRAINING_TEXTS, TrainOptions

# The recipe without --train-data, chosen on the toy world's dev tasks (README, "The toy world").
TOY_RECIPE = {"lr": 1e-3, "wd": 0.1, "warmup": 50, "epochs": 8, "batch_size": 256, "workers": 0}
# The paper's, for Conceptual Captions on 8 GPUs.
PAPER_RECIPE = {"lr": 1e-5, "wd": 0.1, "warmup": 10_000, "epochs": 30, "batch_size": 128, "workers": 4}
VIEWS_KEPT = 4  # of each image in the feature cache, where the mapper sees another view than the target's


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        prog="python src/main.py",
        description="Trains a mapping network for zero-shot composed image retrieval. Without --train-data it trains "
        "on the built-in toy world, evaluates the four tasks and writes a report.",
    )
    _data(parser.add_argument_group("data"))
    _model(parser.add_argument_group("model"))
    _recipe(parser.add_argument_group("recipe (defaults: the toy world's / the paper's)"))
    _machine(parser.add_argument_group("machine"))
    _run(parser.add_argument_group("run"))
    args = parser.parse_args(argv)
    if args.mapper not in MAPPERS:
        parser.error(f"--mapper {args.mapper}: unknown; known are {', '.join(MAPPERS)}")
    return args


def run_settings(args: argparse.Namespace, **toy: Any) -> RunSettings:
    """RunSettings of parsed arguments; `toy` overrides what the user left open, for the toy world."""
    recipe = TOY_RECIPE if toy else PAPER_RECIPE
    chosen = {name: value if (value := getattr(args, name)) is not None else recipe[name] for name in recipe}
    view = _view(args)
    crops = args.crops or (VIEWS_KEPT if view.differs else 0)
    given = {name: value for name, value in toy.items() if getattr(args, name, None) is None}
    return RunSettings(
        train_data=given.get("train_data", args.train_data),
        val_data=given.get("val_data", args.val_data),
        columns=ListColumns(args.image_column, args.caption_column, args.masked_column, args.separator),
        model=given.get("model", args.model or "ViT-L-14"),
        pretrained=given.get("pretrained", args.pretrained or "openai"),
        mapper=args.mapper,
        mapper_options=_mapper_options(args),
        train=TrainOptions(
            epochs=chosen["epochs"],
            batch_size=chosen["batch_size"],
            accumulate=args.accumulate,
            precision=args.precision or ("amp" if torch.cuda.is_available() and args.device != "cpu" else "fp32"),
            training_text=args.training_text,
            seed=args.seed,
            max_broken=args.max_broken,
        ),
        optim=OptimOptions(
            lr=chosen["lr"], weight_decay=chosen["wd"], warmup=chosen["warmup"], multipliers=_multipliers(args)
        ),
        feature_cache=given.get("feature_cache", args.feature_cache),
        cache=CacheOptions(MAPPERS[args.mapper].uses_tokens, args.cache_precision, crops),
        view=view,
        batches=args.batches,
        image_reader=args.image_reader,
        workers=chosen["workers"],
        logs=args.logs,
        name=args.name,
        resume=args.resume,
        device=args.device,
        compiled=args.compile,
        log_every=args.log_every,
        save_frequency=args.save_frequency,
        save_minutes=args.save_minutes,
        keep=args.keep,
        shards=ShardOptions(args.train_samples, args.shuffle),
        evaluation=EvaluationOptions(args.evaluate_every, tuple(args.evaluate.split(",")), args.data_root),
        wandb=args.wandb,
    )


def _mapper_options(args: argparse.Namespace) -> dict[str, Any]:
    options = {}
    for pair in args.mapper_option:
        name, equals, value = pair.partition("=")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            equals = ""
        if not equals:
            raise UserError(f"--mapper-option {pair}: write it as name=value, for instance queries=8")
    return options


def _view(args: argparse.Namespace) -> ViewOptions:
    try:
        return ViewOptions(args.view_crop, args.view_colour, args.view_told)
    except ValueError as error:
        raise UserError(f"--view options: {error}") from None


def _multipliers(args: argparse.Namespace) -> tuple[tuple[str, float], ...]:
    found = []
    for pair in args.lr_multiplier:
        name, _, factor = pair.partition("=")
        try:
            found.append((name, float(factor)))
        except ValueError:
            raise UserError(f"--lr-multiplier {pair}: write it as name=factor, for instance gate=10") from None
    return tuple(found)


def _data(group) -> None:
    group.add_argument("--train-data", metavar="LIST|SHARDS", help="tab-separated list, or WebDataset shards")
    group.add_argument("--val-data", metavar="LIST", help="held-out list, for a validation loss after each epoch")
    group.add_argument("--image-column", default="filepath", metavar="NAME", help="column of the image files")
    group.add_argument("--caption-column", default="title", metavar="NAME", help="column of the captions")
    group.add_argument("--masked-column", default="masked_title", metavar="NAME", help="column of the masked captions")
    group.add_argument("--separator", default="\t", metavar="CHAR", help="what stands between columns")
    group.add_argument(
        "--train-samples", type=int, metavar="N", help="in the shards, if no sizes.json or _stats.json tells"
    )
    group.add_argument("--shuffle", type=int, default=8192, metavar="N", help="samples of shards shuffled at a time")
    group.add_argument("--max-broken", type=float, default=0.1, metavar="SHARE", help="broken pairs that stop the run")
    group.add_argument("--feature-cache", metavar="DIR", help="keep CLIP's features here; later epochs read them")
    group.add_argument("--cache-precision", choices=("fp16", "int8"), default="fp16", help="of cached image tokens")
    group.add_argument(
        "--crops", type=int, default=0, metavar="K", help="random crops (or views) cached per image; 0: whole image"
    )
    group.add_argument(
        "--view-crop",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the mapper sees a crop of at least this share of the image, while the text is to match the whole; 0: off",
    )
    group.add_argument(
        "--view-colour",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="this share of images is shown to the mapper grey or with turned hues; 0: off",
    )
    group.add_argument(
        "--image-reader",
        choices=tuple(PREPARATIONS),
        default="fast",
        help="how images are read: JPEGs by torchvision, or all by Pillow as benchmarks are; cached ones always exact",
    )
    group.add_argument("--view-told", action="store_true", help="--view-colour only where the caption names a colour")


def _model(group) -> None:
    group.add_argument("--model", metavar="NAME", help="CLIP by open_clip's name, ViT-L/14 if left out")
    group.add_argument("--pretrained", metavar="TAG|FILE", help="CLIP's weights; openai if left out")
    group.add_argument("--openai-pretrained", action="store_true", help="the same as --pretrained openai")
    group.add_argument("--mapper", default="context-i2w", help=f"the mapping network: {', '.join(MAPPERS)}")
    group.add_argument(
        "--mapper-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the mapper; repeatable",
    )


def _recipe(group) -> None:
    shown = {name: f"{TOY_RECIPE[name]:g} / {PAPER_RECIPE[name]:g}" for name in TOY_RECIPE}
    group.add_argument("--epochs", type=int, help=shown["epochs"])
    group.add_argument("--batch-size", type=int, help=f"of each process; {shown['batch_size']}")
    group.add_argument("--lr", type=float, help=f"peak learning rate; {shown['lr']}")
    group.add_argument("--wd", type=float, help=f"weight decay; {shown['wd']}")
    group.add_argument("--warmup", type=int, help=f"steps; {shown['warmup']}")
    group.add_argument(
        "--lr-multiplier",
        action="append",
        default=[],
        metavar="NAME=FACTOR",
        help="on the learning rate of the parameters whose names begin so, as gate=10; repeatable",
    )
    group.add_argument("--accumulate", type=int, default=1, metavar="K", help="parts of a batch, to save memory")
    group.add_argument(
        "--training-text",
        choices=TRAINING_TEXTS,
        default="published",
        help="what the pseudo-word is put into",
    )
    group.add_argument(
        "--batches",
        choices=BATCHES,
        default="random",
        help="similar: of groups of images that look alike to CLIP, by cached embeddings (random if left out)",
    )
    group.add_argument("--seed", type=int, default=0, help="of weights, data order, crops and dropout")


def _machine(group) -> None:
    group.add_argument("--device", help="cpu, cuda, cuda:1; every visible GPU if left out")
    group.add_argument("--processes", type=int, help="processes on this machine; one for each GPU if left out")
    group.add_argument("--workers", type=int, help="reading processes of each training process")
    group.add_argument("--precision", choices=PRECISIONS, help="amp on a GPU, fp32 on the CPU if left out")
    group.add_argument("--compile", action="store_true", help="torch.compile the mapper")


def _run(group) -> None:
    group.add_argument("--logs", default="logs", metavar="DIR", help="where run folders are made")
    group.add_argument("--name", help="the run's folder; date, time and mapper if left out")
    group.add_argument("--resume", metavar="PATH|auto", help="go on from a checkpoint or run; auto: the newest run")
    group.add_argument("--log-every", type=int, default=20, metavar="STEPS", help="steps between logged losses")
    group.add_argument("--save-frequency", type=int, default=1, metavar="EPOCHS", help="epochs between checkpoints")
    group.add_argument("--save-minutes", type=float, default=30, metavar="MIN", help="save at least this often")
    group.add_argument("--keep", type=int, default=0, metavar="K", help="epoch checkpoints kept; 0: all")
    group.add_argument("--evaluate-every", type=int, default=0, metavar="EPOCHS", help="evaluate benchmarks; 0: never")
    group.add_argument("--evaluate", default="cirr,fashion", metavar="TASKS", help="benchmarks of --evaluate-every")
    group.add_argument("--data-root", metavar="DIR", help="the benchmarks' data; data if left out")
    group.add_argument("--wandb", metavar="PROJECT", help="log to Weights & Biases too")
