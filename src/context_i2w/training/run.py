"""One training run from its settings: data, mapper, loop, folder. Runs in each process of the run."""

import math
import shlex
import sys
import time
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.base import Benchmark
from context_i2w.checkpoints.files import Checkpoint, pack_mapper, read_checkpoint
from context_i2w.checkpoints.find import checkpoint_to_resume
from context_i2w.checkpoints.reference import CLIPReference
from context_i2w.command_line import flat, options_from, with_values
from context_i2w.data.open import Reader, check_data, open_training, open_validation
from context_i2w.distributed import Process, joined, launch, started_by_launcher
from context_i2w.errors import UserError, as_typed
from context_i2w.evaluation.evaluate import ONLY, evaluate
from context_i2w.evaluation.setup import choose_data_root
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.clip_weights import load_clip
from context_i2w.model.extensions import find_class
from context_i2w.model.mappers import Mapper
from context_i2w.model.options import MAPPERS
from context_i2w.training.facts import about, announce
from context_i2w.training.objective import TRAINING_PROMPT, Objective
from context_i2w.training.options import OBJECTIVES, ModelOptions, RunSettings, usual_precision
from context_i2w.training.run_folder import RunFolder, StopSignal, ended_before_its_first_checkpoint
from context_i2w.training.trainer import Trainer


def train(settings: RunSettings, command: str | None = None) -> Path | None:
    """Trains and returns the run's folder; None if the run was stopped before its end.

    In the settings' number of processes of this machine; left out: one for each visible GPU, or just one. A process
    that torchrun, SLURM's script or `launch` started is one of several already and trains as such.
    command: what started it, for its config.json; the process's own if left out.
    Raises UserError for data, checkpoints or options that do not fit.
    """
    machine, command = settings.machine, command or shlex.join(["python", *sys.argv])
    processes = machine.processes or (torch.cuda.device_count() if machine.device is None else 1)
    if processes > 1 and not started_by_launcher():
        return launch(train, processes, settings, command)
    with joined(machine.device) as process:
        run = _Run(settings, process, command)
        try:
            with StopSignal() as stop, run.bar() as bar:
                run.trainer.run(partial(run.on_step, stop, bar), run.on_epoch)
            return run.end(stop)
        finally:
            run.close()


class _Run:
    """One process's part of a run."""

    def __init__(self, settings: RunSettings, process: Process, command: str):
        self.settings, self.process, self.command = settings, process, command
        model, train = settings.model, settings.train
        kinds = find_class(model.mapper, MAPPERS, "mapper"), find_class(model.objective, OBJECTIVES, "objective")
        resumed = self._read_resumed()
        check_data(settings.data)  # before CLIP's weights are fetched
        self.clip = load_clip(model.clip, model.weights, process.device)
        self.reference = CLIPReference.of(self.clip, model.clip or self.clip.name, model.weights)
        torch.manual_seed(train.seed)
        mapper, objective = _build(settings, *kinds, self.clip)
        reader = Reader(self.clip, train.batch_size, train.seed, process)
        data = replace(settings.data, cache=replace(settings.data.cache, tokens=keeps_tokens(model)))
        source = open_training(data, reader, objective.masker)
        if train.precision is None:
            train = replace(train, precision=usual_precision(process.device.type == "cuda"))
        self.trainer = Trainer(
            self.clip, mapper, source, train, settings.optim, process, settings.machine.compiled, objective,
            settings.data.max_broken,
        )  # fmt: skip
        self.validation = open_validation(data, reader, objective.masker)
        self.benchmarks = self._load_benchmarks() if settings.evaluation.every and process.is_first else {}
        if resumed:
            self._check_same(resumed)
            mapper.load_state_dict(resumed.build_mapper(self.clip.sizes).state_dict())
            self.trainer.restore(resumed.content["training"])
        self.folder = self._make_folder(resumed) if process.is_first else None
        self.path = process.everyone(self.folder.path if self.folder else None)[0]
        self.last_save = time.monotonic()
        self.last_log = (self.trainer.state.step, time.perf_counter())

    def on_step(self, stop: StopSignal, bar: tqdm, loss: Tensor | None) -> bool:
        """Logs, and saves if it is time to; returns whether to stop. Several processes ask at every tenth step."""
        trainer, step = self.trainer, self.trainer.state.step
        bar.update()
        if step % self.settings.folder.log_every == 0 or step == trainer.total_steps:
            self._log(bar, loss)
        if self.process.world > 1 and step % 10:
            return False
        is_time = time.monotonic() - self.last_save > 60 * self.settings.folder.save_minutes
        told = self.process.everyone((stop.received is not None, is_time))
        trainer.share_broken()
        if told[0][1]:  # by the first process's clock
            self.last_save = time.monotonic()
            if self.folder and (loss is None or self._checked(loss)):
                self._save(None)
        return any(stopped for stopped, _ in told)

    def end(self, stop: StopSignal) -> Path | None:
        """Saves what a stopped run has; its folder if it is finished."""
        trainer = self.trainer
        if self.folder:
            if not trainer.finished:
                path = self._save(None)
                reason = f"stopped by {stop.received or 'another process'} at step {trainer.state.step}"
                print(f"{reason}; go on with:\n  {as_typed('python src/main.py')} --resume {path}", file=sys.stderr)
            self.folder.close()
        return self.path if trainer.finished else None

    def close(self) -> None:
        """Ends the processes that read its data."""
        self.trainer.source.close()
        if self.validation:
            self.validation.close()

    def _read_resumed(self) -> Checkpoint | None:
        folder = self.settings.folder
        if folder.resume is None:
            return None
        path = checkpoint_to_resume(folder.resume, Path(folder.logs))
        resumed = read_checkpoint(path, self.settings.model.trust_code)
        if "training" not in resumed.content:
            raise UserError(
                f"--resume {resumed.path}: holds no optimiser state of ours, so training can't go on from it"
            )
        return resumed

    @property
    def _objective(self) -> dict[str, Any]:
        """Of a checkpoint."""
        return {"objective": self.settings.model.objective, "objective_options": asdict(self.trainer.objective.options)}

    def _check_same(self, resumed: Checkpoint) -> None:
        for key, now in self._objective.items():
            if (then := resumed.content.get(key, now)) != now:  # older checkpoints don't say
                raise UserError(f"--resume {resumed.path}: trained with {key} {then}, now it is {now}; give the same")
        if resumed.mapper_class is not type(self.trainer.mapper) or resumed.options != self.trainer.mapper.options:
            raise UserError(
                f"--resume {resumed.path}: a {resumed.mapper_name} with {resumed.options}; give the same mapper"
            )
        assert resumed.clip is not None  # checkpoints with an optimiser's state name theirs
        difference = resumed.clip.difference(self.clip)
        if difference:
            raise UserError(f"--resume {resumed.path}: trained with another CLIP: {difference}")

    def _make_folder(self, resumed: Checkpoint | None) -> RunFolder:
        settings, trainer = self.settings, self.trainer
        name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{settings.model.mapper.rpartition(':')[2]}"
        path = Path(settings.folder.logs) / (settings.folder.name or name)
        if resumed and resumed.path.parent.name == "checkpoints":
            path = resumed.path.parent.parent
        elif path.exists() and not ended_before_its_first_checkpoint(path):
            raise UserError(f"{path} exists already; choose another --name, or go on with --resume {path}")
        facts = about(trainer, self.reference)
        announce(facts, settings, path)
        settings = with_values(settings, resume=None, precision=trainer.options.precision)
        config = flat(settings) | {"command": self.command, "about": facts}
        room = 12 * facts["learned_parameters"]  # weights and AdamW's two moments in float32
        within = trainer.state.samples > 0
        return RunFolder(path, config, resumed.step if resumed else None, settings.folder.wandb, room, within)

    def bar(self) -> tqdm:
        done, total = self.trainer.state.step, self.trainer.total_steps
        return tqdm(total=total, initial=done, desc="training", unit="step", dynamic_ncols=True)

    def _load_benchmarks(self) -> dict[str, Benchmark]:
        """At once, so that missing files are found before training and not an epoch later."""
        options = self.settings.evaluation
        root = choose_data_root(options.data_root, self.clip)
        return {task: BENCHMARKS[task].load(root) for task in options.tasks}

    def _evaluated(self) -> dict[str, float]:
        """`task/metric` -> percent of the composed query; the mean over the groups where there are several."""
        mapper = self.trainer.mapper.eval()
        scalars: dict[str, float] = {}
        for task, benchmark in self.benchmarks.items():
            metrics = evaluate(benchmark, self.clip, {ONLY: mapper}, methods=(ONLY,)).metrics
            group = "mean" if "mean" in metrics else next(iter(metrics))
            scalars |= {f"{task}/{name}": value for name, value in metrics[group][ONLY].items()}
        return scalars

    def _log(self, bar: tqdm, loss: Tensor | None) -> None:
        (step, since), self.last_log = self.last_log, (self.trainer.state.step, time.perf_counter())
        rate = (self.last_log[0] - step) * self.trainer.global_batch / (self.last_log[1] - since)
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

    def _save(self, epoch: int | None) -> Path:
        """Saves if every weight is a finite number. Raises UserError if not; the checkpoints before stay."""
        trainer = self.trainer
        for name, weight in [*trainer.mapper.named_parameters(), *trainer.objective.named_parameters()]:
            if not weight.isfinite().all():
                raise UserError(
                    f"{name} is no longer finite at step {trainer.state.step}, so nothing was saved; lower --lr, or "
                    f"train with --precision bf16 or fp32; go on from the last checkpoint in {self.path}/checkpoints"
                )
        assert self.folder is not None  # only the first process saves
        packed = pack_mapper(self.settings.model.mapper, trainer.mapper, self.reference, trainer.state.step)
        content = packed | {"training": trainer.saved(), **self._objective}
        return self.folder.save(content, epoch, self.settings.folder.keep)

    def on_epoch(self) -> None:
        frequency, state = self.settings.folder.save_frequency, self.trainer.state
        scalars = {"epoch_loss": self.trainer.epoch_loss}
        if self.validation:
            scalars["validation_loss"] = self.trainer.validate(self.validation.epoch(0))
            self.validation.close()
        if self.folder is None:
            return
        if self.benchmarks and state.epoch % self.settings.evaluation.every == 0:
            scalars |= self._evaluated()
        if state.broken:
            scalars["broken_pairs"] = sum(state.broken.values())
            reasons = ", ".join(f"{kind}: {count}" for kind, count in state.broken.most_common(8))
            tqdm.write(f"epoch {state.epoch}: {scalars['broken_pairs']} broken pairs so far ({reasons})", sys.stderr)
        if state.epoch == 1 and self.trainer.without_place and self.settings.train.training_text != "published":
            count, kind = self.trainer.without_place, "have no placeholder among the tokens that CLIP reads"
            tqdm.write(f"{count} masked captions of this process {kind}; they train on {TRAINING_PROMPT!r}", sys.stderr)
        self.folder.log(state.step, **scalars)
        if state.epoch % frequency == 0 or self.trainer.finished:
            self._save(state.epoch)
            self.last_save = time.monotonic()


def _build(
    settings: RunSettings, mapper: type[Mapper], objective: type[Objective], clip: FrozenCLIP
) -> tuple[Mapper, Objective]:
    """Raises UserError for options that they do not have."""
    model = settings.model
    mapper_options: Any = options_from(mapper.Options, model.mapper_options, f"--mapper-option: {model.mapper}")
    found: Any = options_from(objective.Options, model.objective_options, f"--objective-option: {model.objective}")
    made = mapper(clip.sizes, mapper_options).to(clip.device)
    if not objective.reads_images and (made.uses_tokens or made.uses_condition):
        raise UserError(
            f"--objective {model.objective} reads no images, and {model.mapper} needs more than an embedding; "
            "give --mapper phi or pic2word"
        )
    return made, objective(clip, found, settings.train.training_text).to(clip.device)


def keeps_tokens(model: ModelOptions) -> bool:
    """In the feature cache. The toy world's is small, and all mappers share it."""
    return model.clip == "toy" or find_class(model.mapper, MAPPERS, "mapper").uses_tokens
