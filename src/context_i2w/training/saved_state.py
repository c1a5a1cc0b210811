"""Whether the training state of a checkpoint, which anybody may have made, fits the trainer that goes on from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from context_i2w.files import misfit, shown

if TYPE_CHECKING:
    from context_i2w.training.trainer import Trainer

SHAPE = {
    **dict.fromkeys(("step", "epoch", "samples", "global_batch", "total_steps", "seed"), int),
    **{
        "order": str,
        "broken": {str: int},
        "scaler": {},
        "objective?": {},
        "optimizer": {"state": {}, "param_groups": [{"params": [int]}]},
    },
}


def unlike(saved: Any, trainer: Trainer) -> str | None:
    """What in a saved state does not belong to the trainer's, in words; None if all does."""
    if fault := misfit(saved, SHAPE):
        return fault
    now = trainer.saved()
    for name in ("step", "epoch", "samples", "losses", "scaler", "objective"):
        if name in saved and (fault := _unlike(saved[name], now[name], name)):
            return fault
    if (
        saved["total_steps"] == trainer.total_steps
        and max(saved["step"] - trainer.total_steps, saved["epoch"] - trainer.epochs) > 0
    ):
        return f"step {saved['step']} of {trainer.total_steps}, epoch {saved['epoch']} of {trainer.epochs}"
    return _optimizer_fault(saved["optimizer"], trainer.optimizer)


def _optimizer_fault(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> str | None:
    groups, now = saved["param_groups"], optimizer.state_dict()["param_groups"]
    if [group["params"] for group in groups] != [group["params"] for group in now]:
        return "optimizer: other parameters"
    for number, (group, own) in enumerate(zip(groups, now)):
        both = {key: own[key] for key in own if key in group}  # versions of torch differ in what they keep
        if fault := _unlike({key: group[key] for key in both}, both, f"optimizer.param_groups[{number}]"):
            return fault
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = {n: {"step": torch.zeros(()), "exp_avg": p, "exp_avg_sq": p} for n, p in enumerate(parameters)}
    wanted = {n: wanted[n] for n in wanted if n in saved["state"]}  # a parameter without gradients has none
    return _unlike(saved["state"], wanted, "optimizer.state")


def _unlike(value: Any, own: Any, where: str) -> str | None:
    """Whether two trees differ in more than their finite numbers."""
    if isinstance(own, torch.Tensor):
        same = (
            isinstance(value, torch.Tensor)
            and value.shape == own.shape
            and value.is_floating_point() == own.is_floating_point()
        )
        return None if same and value.isfinite().all() else f"{where} is no finite tensor {list(own.shape)}"
    if isinstance(own, dict):
        if not isinstance(value, dict) or value.keys() != own.keys():
            return f"{where} has not the entries of this run"
        return next(filter(None, (_unlike(value[key], own[key], f"{where}.{key}") for key in own)), None)
    if isinstance(own, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(own):
            return f"{where} is {shown(repr(value))}"
        return next(
            filter(None, (_unlike(one, other, f"{where}[{n}]") for n, (one, other) in enumerate(zip(value, own)))), None
        )
    if isinstance(own, bool | None):
        return None if isinstance(value, bool | None) else f"{where} is {shown(repr(value))}"
    number = isinstance(value, int if isinstance(own, int) else int | float) and not isinstance(value, bool)
    fits = number and math.isfinite(value) and (value >= 0 or isinstance(own, float))
    return (
        None
        if fits
        else f"{where} is {shown(repr(value))}, a {'whole number' if isinstance(own, int) else 'number'} is expected"
    )
