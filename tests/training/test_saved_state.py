"""A checkpoint's training state may come damaged, from anybody: it is refused, or it is that of the run."""

import pytest
import torch
from tests.fuzz.mutations import places
from tests.training.test_training import FixedSource

from context_i2w.data.batch import Batch
from context_i2w.errors import UserError
from context_i2w.model.mappers import ContextI2W, ContextI2WOptions
from context_i2w.model.prompts import Tokenizer, mark_placeholders
from context_i2w.training.options import OptimOptions, TrainOptions
from context_i2w.training.saved_state import unlike
from context_i2w.training.trainer import Trainer

ODD = (None, -1, "x", float("nan"), [], {}, {"a": 1}, ["a"], torch.zeros(2), torch.zeros(0), 10**12)


@pytest.fixture(scope="module")
def made(golden_clip):
    torch.manual_seed(0)
    ids = Tokenizer()([mark_placeholders(text) for text in ("a <|replace|> on sand", "a thing " * 60 + "<|replace|>")])
    size = golden_clip.sizes.image_size
    batch = Batch(ids, images=torch.rand(2, 3, size, size))

    def trainer() -> Trainer:
        mapper = ContextI2W(golden_clip.sizes, ContextI2WOptions(depth=1, heads=2))
        return Trainer(golden_clip, mapper, FixedSource([batch]), TrainOptions(epochs=3), OptimOptions())

    trained = trainer()
    trained.step(batch)
    return trainer, trained


def test_a_sound_state_is_restored(made):
    trainer, trained = made
    other = trainer()
    other.restore(trained.saved())
    assert other.state.step == 1
    moments = [one.optimizer.state_dict()["state"][0]["exp_avg"] for one in (other, trained)]
    assert moments[0].equal(moments[1])


def test_a_run_goes_on_in_another_precision(made):
    """As the error of a run that is no longer finite advises: float16's scaler stays behind."""
    trainer, trained = made
    scaler = {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 1,
    }
    other = trainer()
    other.restore(trained.saved() | {"scaler": scaler})
    assert other.state.step == 1


def test_every_damaged_place_is_refused_in_one_line_or_harmless(made):
    trainer, trained = made
    other, whole = trainer(), trained.saved()
    now = other.saved()
    refused = []
    for *way, last in places({name: whole[name] for name in whole if name not in ("options", "optim")}):
        if way[:2] == ["optimizer", "state"] and way[2:] not in ([], [0]):
            continue  # parameters are all alike
        holder = whole
        for key in way:
            holder = holder[key]
        sound = holder[last]
        for odd in ODD:
            holder[last] = odd
            fault = unlike(whole, now, other.optimizer, other.epochs)
            assert fault is None or ("\n" not in fault and len(fault) < 400)
            refused += [(*way, last)] if fault else []
        holder[last] = sound
    wanted = [("step",), ("broken",), ("optimizer",), ("optimizer", "state", 0, "exp_avg")]
    assert {*wanted, ("optimizer", "param_groups", 0, "lr")} <= set(refused)


def test_what_is_damaged_is_named(made):
    saved = made[1].saved()
    saved["optimizer"]["state"][0]["exp_avg"] = {"a": 1}
    with pytest.raises(UserError, match=r"optimizer\.state\.0\.exp_avg is no finite tensor"):
        made[0]().restore(saved)


def test_captions_whose_placeholder_clip_does_not_read_are_counted(made):
    assert made[1].without_place == 1  # of two
