"""AdamW's parameter groups and the learning-rate schedule, as published."""

import math

import torch
from torch import nn

from context_i2w.checkpoints.published import published_name
from context_i2w.errors import UserError
from context_i2w.training.options import OptimOptions


def decays(name: str) -> bool:
    """Whether weight decay applies to the parameter: decided on its published name, by the published rule.

    The rule spares biases and what is called bn, ln or logit_scale; the extractor's LayerNorm weights, the queries
    and the gate are named otherwise, so they do decay.
    """
    return not any(part in published_name(name) for part in ("bn", "ln", "bias", "logit_scale"))


def make_optimizer(mapper: nn.Module, options: OptimOptions, objective: nn.Module | None = None) -> torch.optim.AdamW:
    """AdamW over what mapper and objective learn, in two groups: without and with weight decay.

    Parameters with a multiplier form groups of their own after these. Raises UserError for a multiplier that no
    parameter's name begins with.
    """
    named = [(name, p) for name, p in mapper.named_parameters() if p.requires_grad]
    if objective is not None:
        named += [(f"objective.{name}", p) for name, p in objective.named_parameters() if p.requires_grad]
    for prefix in options.multipliers:
        if not any(name.startswith(prefix) for name, _ in named):
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in named))
            raise UserError(f"--lr-multiplier {prefix}: no parameter's name begins so; they begin with {known}")
    members: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, False): [], (1.0, True): []}
    for name, parameter in named:
        decayed = options.decay == "all" or decays(name)
        factors = [factor for prefix, factor in options.multipliers.items() if name.startswith(prefix)]
        members.setdefault((factors[-1] if factors else 1.0, decayed), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": options.weight_decay if decayed else 0.0, "multiplier": multiplier}
        for (multiplier, decayed), parameters in members.items()
    ]
    on_gpu = any(p.is_cuda for _, p in named)
    betas = (options.beta1, options.beta2)
    return torch.optim.AdamW(groups, lr=options.lr, betas=betas, eps=options.eps, fused=on_gpu or None)


def learning_rate(step: int, base: float, warmup: int, total: int, schedule: str = "cosine") -> float:
    """Rate at `step`, counted from 0 over the whole run: linear warm-up, then half a cosine down to 0 at `total`."""
    if step < warmup:
        return base * (step + 1) / warmup
    if schedule == "constant":
        return base
    progress = (step - warmup) / max(total - warmup, 1)
    return 0.5 * base * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("multiplier", 1.0)  # older checkpoints' groups have none
