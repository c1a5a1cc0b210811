"""Whether the training state of a checkpoint, which anybody may have made, fits the trainer that goes on from it."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from context_i2w.files import misfit, shown

SHAPE = {
    **dict.fromkeys(("step", "epoch", "samples", "global_batch", "total_steps", "seed"), int),
    "order": str,
    "broken": {str: int},
    "scaler": {},
    "objective?": {},
    "optimizer": {"state": {}, "param_groups": [{"params": [int]}]},
}


def unlike(saved: Any, now: Mapping[str, Any], optimizer: torch.optim.Optimizer, epochs: int) -> str | None:
    """What in a saved state does not fit a trainer's own, in words; None if all does. epochs: of the whole run."""
    if fault := misfit(saved, SHAPE):
        return fault
    for name in ("step", "epoch", "samples", "losses", "scaler", "objective"):
        if name == "scaler" and not (saved[name] and now[name]):
            continue  # another precision than the run had: a scaler has nothing to go on from
        if name in saved and (fault := _unlike(saved[name], now[name], name)):
            return fault
    total = now["total_steps"]
    if saved["total_steps"] == total and (saved["step"] > total or saved["epoch"] > epochs):
        return f"step {saved['step']} of {total}, epoch {saved['epoch']} of {epochs}"
    return _optimizer_fault(saved["optimizer"], optimizer)


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
        same = isinstance(value, torch.Tensor) and value.shape == own.shape
        same = same and value.is_floating_point() == own.is_floating_point() and bool(value.isfinite().all())
        return None if same else f"{where} is no finite tensor {list(own.shape)}"
    if isinstance(own, dict):
        if not isinstance(value, dict) or value.keys() != own.keys():
            return f"{where} has not the entries of this run"
        return next(filter(None, (_unlike(value[key], own[key], f"{where}.{key}") for key in own)), None)
    if isinstance(own, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(own):
            return f"{where} is {shown(repr(value))}"
        return next(filter(None, (_unlike(*pair, f"{where}[{n}]") for n, pair in enumerate(zip(value, own)))), None)
    if isinstance(own, bool | None):
        return None if isinstance(value, bool | None) else f"{where} is {shown(repr(value))}"
    kind, wanted = (int, "whole number") if isinstance(own, int) else (int | float, "number")
    number = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    fits = number and (value >= 0 or isinstance(own, float))
    return None if fits else f"{where} is {shown(repr(value))}, a {wanted} is expected"
