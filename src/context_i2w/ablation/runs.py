"""The runs of a grid: trained in parallel processes, each in a folder of its own; those that are there stay."""

import hashlib
import json
import multiprocessing
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from context_i2w import distributed
from context_i2w.checkpoints.find import LAST
from context_i2w.command_line import with_values
from context_i2w.data.open import kept
from context_i2w.errors import UserError
from context_i2w.evaluation.setup import TOY_ROOT
from context_i2w.toy_world import make_toy_world
from context_i2w.toy_world.world import VERSION
from context_i2w.training.options import RunSettings, parse_settings, usual_precision
from context_i2w.training.run import keeps_tokens, train
from context_i2w.training.run_folder import ended_before_its_first_checkpoint
from context_i2w.training.toy_run import is_on_toy_world, toy_settings

FINISHED = "finished.json"
SECONDS_TO_SAVE = 60  # for a worker that is told to stop
_device: str | None = None  # of this worker process


@dataclass(frozen=True)
class Run:
    """One training: options of src/main.py with the seed among them, and its folder."""

    options: tuple[str, ...]
    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / LAST

    def effort(self) -> dict[str, float]:
        """Seconds of training, and the mean training loss of the last epoch."""
        return json.loads((self.folder / FINISHED).read_text())


def run_of(options: Sequence[str], logs: Path) -> Run:
    """The run of these options; its folder is named by all settings that they lead to. Raises UserError."""
    identity = _identity(settings_from(options))
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Run(tuple(options), logs / digest[:12])


def settings_from(options: Sequence[str]) -> RunSettings:
    """Settings of src/main.py with these options: on the toy world without --train-data."""
    settings = parse_settings(options)
    return toy_settings(settings) if is_on_toy_world(settings) else settings


def _identity(settings: RunSettings) -> dict[str, Any]:
    """All that makes a run's numbers, in the form that has always named runs: new settings only where they differ."""
    data, model, optim, folder = settings.data, settings.model, settings.optim, settings.folder
    on_gpu = torch.cuda.is_available() and settings.machine.device != "cpu"
    precision = settings.train.precision or usual_precision(on_gpu)
    train = asdict(settings.train) | {"max_broken": data.max_broken, "precision": precision}
    new = {"steps": train.pop("steps"), "schedule": optim.schedule, "decay": optim.decay, "objective": model.objective}
    new |= {"objective_options": dict(model.objective_options), "image_reader": data.image_reader}
    usual: dict[str, Any] = {"steps": None, "schedule": "cosine", "decay": "published", "objective": "contrastive"}
    usual |= {"objective_options": {}, "image_reader": "fast" if data.feature_cache else "exact"}
    optimiser = {k: v for k, v in asdict(optim).items() if k not in new}
    identity = {
        "train_data": data.train_data,
        "val_data": data.val_data,
        "columns": asdict(data.columns),
        "model": model.clip or "ViT-L-14",
        "pretrained": model.weights,
        "mapper": model.mapper,
        "mapper_options": dict(model.mapper_options),
        "train": train,
        "optim": optimiser | {"multipliers": [(name, float(factor)) for name, factor in optim.multipliers.items()]},
        "feature_cache": data.feature_cache,
        "cache": asdict(kept(data)) | {"tokens": keeps_tokens(model)},
        "crop": True,
        "view": asdict(data.view),
        "batches": data.batches,
        "workers": data.workers,
        "compiled": settings.machine.compiled,
        "log_every": folder.log_every,
        "save_frequency": folder.save_frequency,
        "save_minutes": 30 if folder.save_minutes == 30 else folder.save_minutes,  # the default was no float
        "keep": 0,
        "shards": asdict(data.shards),
        "evaluation": asdict(settings.evaluation),
        "wandb": folder.wandb,
        **{key: value for key, value in new.items() if value != usual[key]},
    }
    return identity | ({"toy world": VERSION} if is_on_toy_world(settings) else {})


def train_all(runs: Iterable[Run], jobs: int) -> None:
    """Trains the runs that are not finished, `jobs` at a time: one on each GPU, or on a share of the cores.

    Interrupted, each saves its place and the next call goes on there. Raises UserError as a training does.
    """
    todo = [run for run in dict.fromkeys(runs) if not (run.folder / FINISHED).is_file()]
    if not todo:
        return
    if any(is_on_toy_world(settings_from(run.options)) for run in todo):
        make_toy_world(TOY_ROOT)
    context = multiprocessing.get_context(distributed.START)
    devices = context.Queue()
    for number in range(jobs):
        devices.put(f"cuda:{number}" if torch.cuda.is_available() else "cpu")
    os.environ["TQDM_DISABLE"] = "1"  # in the workers, whose bars would write over each other
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(devices, threads))
    try:
        futures = {pool.submit(_train, run): run for run in todo}
        with tqdm(total=len(todo), desc="training", unit="run", dynamic_ncols=True) as bar:
            for future in as_completed(futures):
                future.result()
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
        del os.environ["TQDM_DISABLE"]


def default_jobs() -> int:
    """A process for each GPU, or for each core: one thread each wastes least."""
    return torch.cuda.device_count() or os.cpu_count() or 1


def _begin(devices, threads: int) -> None:
    global _device
    _device = devices.get()
    torch.set_num_threads(threads)
    threading.Thread(target=_stop_with_parent, daemon=True).start()


def _stop_with_parent() -> None:
    """Without it a worker whose grid was killed would go on unseen. It saves its place as at any SIGTERM."""
    parent = multiprocessing.parent_process()
    assert parent, "runs in a worker of the grid"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


def _train(run: Run) -> None:
    resume = str(run.folder) if run.checkpoint.is_file() else None
    settings = with_values(
        settings_from(run.options),
        logs=str(run.folder.parent),
        name=run.folder.name,
        resume=resume,
        device=_device,
        save_frequency=1000,  # the last epoch is always saved
    )
    if run.folder.exists() and not resume and not ended_before_its_first_checkpoint(run.folder):
        raise UserError(f"{run.folder}: in the way of a run; move it away")
    command = ["python", "src/main.py", *run.options, "--logs", str(run.folder.parent), "--name", run.folder.name]
    if train(settings, shlex.join(command)) is None:
        raise UserError("stopped; the same command goes on from here")
    (run.folder / FINISHED).write_text(json.dumps(_effort(run.folder / "metrics.jsonl", settings)) + "\n")


def _effort(metrics: Path, settings: RunSettings) -> dict[str, float]:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    seconds, before = 0.0, 0
    for line in lines:
        if "images_per_second" in line:
            seconds += (line["step"] - before) * settings.train.batch_size / line["images_per_second"]
            before = line["step"]
    return {"seconds": seconds, "loss": [line["epoch_loss"] for line in lines if "epoch_loss" in line][-1]}
