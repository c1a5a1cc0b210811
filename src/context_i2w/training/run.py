"""One training run from its settings: data, mapper, loop, folder. Runs in each process of the run."""

import math
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from context_i2w.checkpoints.files import (
    Checkpoint,
    CLIPReference,
    options_from,
    pack_mapper,
    read_checkpoint,
)
from context_i2w.data.augmentation import ViewOptions
from context_i2w.data.feature_cache import CacheOptions
from context_i2w.data.pairs import ListColumns, check_list_exists
from context_i2w.data.shard_files import is_shards
from context_i2w.data.shards import ShardOptions
from context_i2w.distributed import Process, gather_objects, join, launch, leave, started_by_launcher
from context_i2w.errors import UserError
from context_i2w.model.clip_weights import load_clip
from context_i2w.model.mappers import MAPPERS
from context_i2w.training.optimiser import OptimOptions
from context_i2w.training.periodic_evaluation import EvaluationOptions, PeriodicEvaluation
from context_i2w.training.run_folder import (
    RunFolder,
    StopSignal,
    checkpoint_to_resume,
    ended_before_its_first_checkpoint,
)
from context_i2w.training.train_data import TrainData
from context_i2w.training.trainer import Stopwatch, Trainer, TrainOptions


@dataclass(frozen=True)
class RunSettings:
    """Everything that makes a run; written to its config.json."""

    train_data: str
    val_data: str | None = None
    columns: ListColumns = field(default_factory=ListColumns)
    model: str = "ViT-L-14"
    pretrained: str | None = "openai"
    mapper: str = "context-i2w"
    mapper_options: Mapping[str, Any] = field(default_factory=dict)
    train: TrainOptions = field(default_factory=TrainOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    feature_cache: str | None = None
    cache: CacheOptions = field(default_factory=CacheOptions)
    crop: bool = True
    view: ViewOptions = field(default_factory=ViewOptions)
    batches: str = "random"
    image_reader: str = "fast"
    workers: int = 4
    logs: str = "logs"
    name: str | None = None
    resume: str | None = None
    device: str | None = None
    compiled: bool = False
    log_every: int = 20  # steps
    save_frequency: int = 1  # epochs
    save_minutes: float = 30.0
    keep: int = 0  # epoch checkpoints; 0 keeps all
    shards: ShardOptions = field(default_factory=ShardOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    wandb: str | None = None  # project


def train_in_processes(settings: RunSettings, processes: int | None) -> Path | None:
    """`train` in so many processes of this machine; None: one for each visible GPU, or just one.

    A process that torchrun or SLURM's script started is one of several already and trains as such.
    """
    if processes is None:
        processes = torch.cuda.device_count() if settings.device is None else 1
    if processes > 1 and not started_by_launcher():
        return launch(train, processes, settings)
    return train(settings)


def train(settings: RunSettings) -> Path | None:
    """Trains and returns the run's folder, in every process; None if the run was stopped before its end.

    Raises UserError for data, checkpoints or options that do not fit.
    """
    process = join(settings.device)
    try:
        return _Run(settings, process).train()
    finally:
        leave()


class _Run:
    """One process's part of a run."""

    def __init__(self, settings: RunSettings, process: Process):
        self.settings, self.process = settings, process
        resumed = self._read_resumed()
        for data in filter(None, (settings.train_data, settings.val_data)):
            if not is_shards(data):
                check_list_exists(Path(data))  # before CLIP's weights are fetched
        options = options_from(settings.mapper, settings.mapper_options, "--mapper-option")
        self.clip = load_clip(settings.model, settings.pretrained, process.device)
        self.reference = CLIPReference(settings.model, settings.pretrained, self.clip.weights_hash)
        torch.manual_seed(settings.train.seed)
        mapper = MAPPERS[settings.mapper](self.clip.sizes, options).to(process.device)
        train = settings.train
        data = TrainData(
            settings.columns, self.clip, train.batch_size, train.seed, process, settings.workers, settings.image_reader
        )
        cache, view = settings.cache, settings.view
        source = data.open(
            settings.train_data, settings.crop, settings.feature_cache, cache, settings.shards, view, settings.batches
        )
        self.trainer = Trainer(self.clip, mapper, source, train, settings.optim, process, settings.compiled)
        self.validation = None
        if settings.val_data:
            self.validation = data.open(settings.val_data, False, None, settings.cache, ShardOptions())
        self.evaluation = None
        if settings.evaluation.every and process.is_first:
            self.evaluation = PeriodicEvaluation(settings.evaluation, self.clip)
        if resumed:
            self._check_same(resumed)
            mapper.load_state_dict(resumed.build_mapper(self.clip.sizes).state_dict())
            self.trainer.restore(resumed.content["training"])
        self.folder = self._make_folder(resumed) if process.is_first else None
        self.path = gather_objects(self.folder and self.folder.path)[0]
        self.last_save = time.monotonic()

    def train(self) -> Path | None:
        trainer, state = self.trainer, self.trainer.state
        watch = Stopwatch()
        with StopSignal() as stop, self._bar(state.step) as bar:

            def on_step(loss: Tensor | None) -> bool:
                watch.add(trainer.global_batch)
                bar.update()
                if state.step % self.settings.log_every == 0 or state.step == trainer.total_steps:
                    self._log(bar, loss, watch)
                return self._look_around(stop, loss)

            trainer.run(on_step, self._after_epoch)
        finished = state.epoch >= self.settings.train.epochs
        if self.folder:
            if not finished:
                path = self.folder.save(self._content())
                reason = f"stopped by {stop.received or 'another process'} at step {state.step}"
                print(f"{reason}; go on with:\n  {_command(path)}", file=sys.stderr)
            self.folder.close()
        return self.path if finished else None

    def _read_resumed(self) -> Checkpoint | None:
        settings = self.settings
        if settings.resume is None:
            return None
        resumed = read_checkpoint(checkpoint_to_resume(settings.resume, Path(settings.logs)))
        if "training" not in resumed.content:
            raise UserError(
                f"--resume {resumed.path}: holds no optimiser state of ours, so training can't go on from it"
            )
        return resumed

    def _check_same(self, resumed: Checkpoint) -> None:
        if resumed.mapper_name != self.settings.mapper or resumed.options != self.trainer.mapper.options:
            raise UserError(
                f"--resume {resumed.path}: a {resumed.mapper_name} with {resumed.options}; give the same mapper"
            )
        if resumed.clip.weights_hash != self.clip.weights_hash:
            raise UserError(f"--resume {resumed.path}: trained with another CLIP, {resumed.clip.model}")

    def _make_folder(self, resumed: Checkpoint | None) -> RunFolder:
        settings = self.settings
        path = Path(settings.logs) / (settings.name or f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{settings.mapper}")
        if resumed and resumed.path.parent.name == "checkpoints":
            path = resumed.path.parent.parent
        elif path.exists() and not ended_before_its_first_checkpoint(path):
            raise UserError(f"{path} exists already; choose another --name, or go on with --resume {path}")
        config = asdict(settings) | {"command": _command(None), "torch": torch.__version__}
        return RunFolder(path, config, resumed.step if resumed else None, settings.wandb)

    def _bar(self, done: int) -> tqdm:
        hidden = {} if self.process.is_first else {"disable": True}  # not False: that would overrule TQDM_DISABLE
        total = self.trainer.total_steps
        return tqdm(total=total, initial=done, desc="training", unit="step", dynamic_ncols=True, **hidden)

    def _log(self, bar: tqdm, loss: Tensor | None, watch: Stopwatch) -> None:
        rate = watch.read()
        if loss is None:  # every pair of the batch was broken
            return
        value = self._checked(loss)
        bar.set_postfix(loss=f"{value:.4f}", images_per_s=f"{rate:.0f}")
        if self.folder:
            lr = self.trainer.optimizer.param_groups[0]["lr"]
            self.folder.log(self.trainer.state.step, loss=value, lr=lr, images_per_second=round(rate, 1))

    def _checked(self, loss: Tensor) -> float:
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at step {self.trainer.state.step}; lower --lr, or train with --precision bf16 or "
                "fp32; the last checkpoint in the run's folder is from before"
            )
        return value

    def _look_around(self, stop: StopSignal, loss: Tensor | None) -> bool:
        """Saves if it is time to; returns whether to stop. Processes do both at the same step: every tenth they ask."""
        if self.process.world > 1 and self.trainer.state.step % 10:
            return False
        is_time = time.monotonic() - self.last_save > 60 * self.settings.save_minutes
        told = gather_objects((stop.received is not None, is_time))
        self.trainer.share_broken()
        if told[0][1]:  # by the first process's clock
            self.last_save = time.monotonic()
            if self.folder and (loss is None or self._checked(loss)):
                self.folder.save(self._content())
        return any(stopped for stopped, _ in told)

    def _after_epoch(self) -> None:
        settings, state = self.settings, self.trainer.state
        scalars = {"epoch_loss": self.trainer.epoch_loss}
        if self.validation:
            scalars["validation_loss"] = self.trainer.validate(self.validation.epoch(0))
        if self.folder is None:
            return
        if self.evaluation and self.evaluation.is_due(state.epoch):
            scalars |= self.evaluation.scalars(self.trainer.mapper)
        if state.broken:
            scalars["broken_pairs"] = sum(state.broken.values())
            reasons = ", ".join(f"{kind}: {count}" for kind, count in state.broken.most_common(8))
            tqdm.write(f"epoch {state.epoch}: {scalars['broken_pairs']} broken pairs so far ({reasons})", sys.stderr)
        self.folder.log(state.step, **scalars)
        if state.epoch % settings.save_frequency == 0 or state.epoch == settings.train.epochs:
            self.folder.save(self._content(), state.epoch, settings.keep)
            self.last_save = time.monotonic()

    def _content(self) -> dict[str, Any]:
        trainer = self.trainer
        packed = pack_mapper(self.settings.mapper, trainer.mapper, self.reference, trainer.state.step)
        return packed | {"training": trainer.saved()}


def _command(resume: Path | None) -> str:
    """The command of this run, to be given again."""
    words = ["python", *sys.argv]
    if resume is not None:
        words = [w for i, w in enumerate(words) if w != "--resume" and words[i - 1] != "--resume"]
        words = [w for w in words if not w.startswith("--resume=")] + ["--resume", str(resume)]
    return shlex.join(words)
