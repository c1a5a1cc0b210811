"""What a run says of itself: at its start in a few lines, and in its config.json."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from context_i2w.checkpoints.reference import CLIPReference
from context_i2w.evaluation.report import versions
from context_i2w.training.options import RunSettings
from context_i2w.training.trainer import Trainer


def about(trainer: Trainer, clip: CLIPReference) -> dict[str, Any]:
    """Everything that could explain another number: code, versions, machine, CLIP, data, sizes."""
    process, learned = trainer.process, [p for p in trainer.both.parameters() if p.requires_grad]
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "commit": _commit(),
        "versions": versions(),
        "device": torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else cpu,
        "processes": process.world,
        "global_batch": trainer.global_batch,
        "steps": trainer.total_steps,
        "epochs": trainer.epochs,
        "data": trainer.source.order,
        "clip": {"model": clip.model, "pretrained": clip.pretrained, "sha256": clip.weights_hash},
        "learned_parameters": sum(p.numel() for p in learned),
        "precision": trainer.options.precision,
        "text": getattr(trainer.objective, "training_text", "self-masked"),
    }


def announce(facts: dict[str, Any], settings: RunSettings, folder: Path) -> None:
    """On stderr, what is about to happen; and a warning if the global batch is not the recipe's."""
    model, batch = settings.model, facts["global_batch"]
    clip = facts["clip"]
    named = clip["model"], clip["pretrained"]
    lines = [
        f"training {model.mapper} ({facts['learned_parameters']:,} parameters) with the {model.objective} objective "
        f"and the {facts['text']} text",
        f"  data    {facts['data']}",
        f"  batch   {batch} in all, {batch // facts['processes']} for each process",
        f"  steps   {facts['steps']:,} in {facts['epochs']} epochs, {facts['precision']} on {facts['device']}",
        f"  CLIP    {' '.join(dict.fromkeys(filter(None, named)))}, weights {clip['sha256'][:12]}",
        f"  folder  {folder}",
    ]
    wanted = settings.recipe_batch
    if wanted and batch != wanted:
        each = wanted // facts["processes"]
        lines.append(
            f"  warning: the recipe's global batch is {wanted}; for it give --batch-size {each}, "
            "with --accumulate K if memory is short"
        )
    print("\n".join(lines), file=sys.stderr)


def _commit() -> str | None:
    """Of the code, with + if there are changes; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
