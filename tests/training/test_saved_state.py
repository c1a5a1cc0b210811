"""A checkpoint's training state may come damaged, from anybody: it is refused, or it is that of the run."""

import copy

import pytest
import torch
from tests.fuzz.mutations import places
from tests.training.test_training import FixedSource

from context_i2w.data.pairs import Batch
from context_i2w.errors import UserError
from context_i2w.model.mappers import ContextI2W, ContextI2WOptions
from context_i2w.model.prompts import Tokenizer, mark_placeholders
from context_i2w.training.options import OptimOptions, TrainOptions
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
    assert other.optimizer.state_dict()["state"][0]["exp_avg"].equal(
        trained.optimizer.state[_first(trained)]["exp_avg"]
    )


def _first(trainer):
    return trainer.optimizer.param_groups[0]["params"][0]


def test_every_damaged_place_is_refused_or_harmless(made):
    trainer, trained = made
    other, whole = trainer(), trained.saved()
    some = [
        way
        for way in places(whole)
        if way[0] not in ("options", "optim") and not (len(way) > 2 and way[-2] in range(3, 99))
    ]
    for way in some:
        for odd in ODD:
            saved = copy.deepcopy(whole)
            holder = saved
            for key in way[:-1]:
                holder = holder[key]
            if not isinstance(holder, dict | list):
                continue
            holder[way[-1]] = odd
            try:
                other.restore(saved)
            except UserError as error:
                assert "\n" not in str(error), way
                assert len(str(error)) < 600, way


def test_captions_whose_placeholder_clip_does_not_read_are_counted(made):
    assert made[1].without_place == 1  # of two
