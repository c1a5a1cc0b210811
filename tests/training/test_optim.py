"""Parameter groups and schedule against the published ones."""

import pytest
import torch

from conftest import metadata
from context_i2w.checkpoints.published import published_name
from context_i2w.errors import UserError
from context_i2w.training.optimiser import OptimOptions, decays, learning_rate, make_optimizer, set_learning_rate


def test_decay_groups_are_the_published_ones(golden_mapper):
    names = [name for name, _ in golden_mapper.named_parameters()]
    steps = metadata("step_small")
    assert {published_name(n) for n in names if decays(n)} == set(steps["decay"])
    assert {published_name(n) for n in names if not decays(n)} == set(steps["no_decay"])
    groups = make_optimizer(golden_mapper, OptimOptions()).param_groups
    assert [len(group["params"]) for group in groups] == [29, 62]
    assert groups[0]["weight_decay"] == 0


def test_schedule_equals_the_published_one(golden_step):
    wanted = golden_step["lr_schedule_base1e-4_warm10_total100"]
    found = [learning_rate(step, 1e-4, 10, 100) for step in range(100)]
    assert torch.allclose(torch.tensor(found, dtype=torch.double), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (10, 10), (20, 10)])
def test_schedule_with_odd_lengths_is_finite(warmup, total):
    """Published: a warm-up equal to the total divides by zero."""
    rates = [learning_rate(step, 1.0, warmup, total) for step in range(total + 2)]
    assert all(0 <= rate <= 1 for rate in rates)


def test_multipliers_change_the_rate_of_what_they_name_and_nothing_else(golden_mapper):
    rates = {}
    for multipliers in ({}, {"extractor": 2.0, "extractor.queries": 10.0, "gate": 5.0}):
        optimizer = make_optimizer(golden_mapper, OptimOptions(multipliers=multipliers))
        set_learning_rate(optimizer, 0.5)
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        rates[len(multipliers)] = {
            name: (groups[id(p)]["lr"], groups[id(p)]["weight_decay"]) for name, p in golden_mapper.named_parameters()
        }
    plain, changed = rates.values()
    for name, (rate, decay) in changed.items():
        factor = {"extractor.queries": 10.0, "gate": 5.0}.get(name, 2.0 if name.startswith("extractor") else 1.0)
        assert (rate, decay) == (plain[name][0] * factor, plain[name][1]), name


def test_a_multiplier_of_nothing_is_refused(golden_mapper):
    with pytest.raises(UserError, match="--lr-multiplier gates: no parameter's name begins so"):
        make_optimizer(golden_mapper, OptimOptions(multipliers={"gates": 2.0}))
