"""Training from captions alone: LinCIR's own step and twelve updates, the promises of the loop, the commands."""

import json

import pytest
import torch
from safetensors.torch import load_file

from conftest import GOLDEN, relative
from context_i2w.data.batch import Batch
from context_i2w.data.captions import Captions
from context_i2w.data.open import Reader, open_training
from context_i2w.data.options import DataOptions, ListColumns
from context_i2w.distributed import Process, join, launch, leave
from context_i2w.errors import UserError
from context_i2w.model.clip_weights import clip_from_openai_state
from context_i2w.model.mappers import Phi
from context_i2w.model.options import PhiOptions
from context_i2w.model.prompts import PLACEHOLDER_ID
from context_i2w.preparation.masking.self_masking import SelfMasker
from context_i2w.training.options import OptimOptions, TrainOptions, settings_of
from context_i2w.training.run import train
from context_i2w.training.text_only import TextOnly, TextOnlyOptions
from context_i2w.training.trainer import Trainer
from made_pairs import write_tiny_clip

DOLLAR = 259  # LinCIR's placeholder
CAPTIONS = ["a red dog on sand", "the cat", "two birds in the snow", "running quickly", "a photo", "old boats at sea"]
RULES = TextOnlyOptions(parser="rules")
OPTIM = OptimOptions(
    lr=1e-4, weight_decay=0.01, warmup=0, schedule="constant", decay="all", beta1=0.9, beta2=0.999, eps=1e-8
)


class FixedSource:
    """The same batches in every run."""

    def __init__(self, batches: list[Batch]):
        self.all, self.batches, self.batch_size, self.order = batches, len(batches), batches[0].size, "fixed"

    def epoch(self, epoch: int, start: int = 0):
        return iter(self.all[start:])


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "phi" / "lincir_train.safetensors")


@pytest.fixture
def golden_trainer(golden, golden_clip, monkeypatch):
    """LinCIR's φ, batch and noise under our objective, with the recipe's optimiser."""
    mapper = Phi(golden_clip.sizes, PhiOptions(dropout=0.0))
    mapper.load_state_dict(torch.load(GOLDEN / "phi" / "lincir_phi_best.pt")["Phi"])
    masked = golden["masked_token_ids"].long()
    batch = Batch(masked.where(masked != DOLLAR, PLACEHOLDER_ID), caption_ids=golden["token_ids"].long())
    objective = TextOnly(golden_clip, RULES)
    noise = golden["uniform"][:, None] * golden["noise"]
    monkeypatch.setattr(objective, "noised", lambda text: text + noise)
    return Trainer(golden_clip, mapper, FixedSource([batch]), TrainOptions(steps=12), OPTIM, objective=objective)


def test_the_step_is_lincirs(golden, golden_clip, golden_trainer):
    batch, mapper = golden_trainer.source.all[0], golden_trainer.mapper
    target, composed = golden_trainer._compose_part(batch, 0)
    assert relative(target, golden["text_embeddings"]) < 1e-5
    assert relative(composed, golden["replaced_embeddings"]) < 1e-5
    assert float(golden_trainer.backward(batch)) == pytest.approx(float(golden["losses_12"][0]), abs=1e-6)
    for name, parameter in mapper.named_parameters():
        assert relative(parameter.grad, golden[f"grad.{name}"]) < 1e-5, name
    norms = [float(p.grad.double().norm()) for p in mapper.parameters()]
    assert norms == pytest.approx(golden["grad_norms"].tolist(), rel=1e-5)


def test_twelve_updates_are_lincirs(golden, golden_trainer):
    losses = []
    for number in range(1, 13):
        losses.append(float(golden_trainer.step(golden_trainer.source.all[0])))
        for name, tensor in golden_trainer.mapper.state_dict().items():
            if number in (1, 12):
                assert float((tensor - golden[f"after{number}.{name}"]).abs().max()) < 1e-5, (number, name)
    assert losses == pytest.approx(golden["losses_12"].tolist(), abs=1e-6)


def test_the_recipe_is_lincirs():
    settings = settings_of({"objective": "text", "train_data": "captions.tsv"})
    assert settings.optim == OPTIM
    assert (settings.train.steps, settings.train.batch_size, settings.recipe_batch) == (20_000, 512, 512)
    assert settings.model.mapper == "phi"
    shorter = settings_of({"objective": "text", "train_data": "captions.tsv", "epochs": 3}).train
    assert (shorter.steps, shorter.epochs) == (None, 3)


def test_a_words_own_embedding_in_the_masks_place_gives_the_plain_text(golden_clip):
    """The composed pass is causal and sees positions, as the plain one (fault 1 of LinCIR's with new libraries)."""
    masker = SelfMasker("offsets", "rules", 77)
    ids, _ = masker(["a dog on sand with dog"], [""])
    word = ids[0, 2]
    composed = golden_clip.compose(ids.where(ids != word, PLACEHOLDER_ID), golden_clip.token_embedding(word)[None])
    assert relative(composed, golden_clip.encode_text(ids)) < 1e-5


def made_batches(count: int, rows: slice = slice(None)) -> list[Batch]:
    ids, masked = SelfMasker("offsets", "rules", 77)(CAPTIONS, CAPTIONS)
    return [Batch(masked.roll(n, 0)[rows], caption_ids=ids.roll(n, 0)[rows]) for n in range(count)]


def made_trainer(clip, batches, process=None, dropout=0.5, noise="lincir", **options) -> Trainer:
    torch.manual_seed(0)
    mapper = Phi(clip.sizes, PhiOptions(dropout=dropout))
    objective = TextOnly(clip, TextOnlyOptions(noise=noise, parser="rules"))
    trainer = Trainer(clip, mapper, FixedSource(batches), TrainOptions(epochs=2, **options), OPTIM, process,
                      objective=objective)  # fmt: skip
    trainer.both.train()
    return trainer


def test_noise_is_a_uniform_number_times_a_normal_vector_and_none_in_validation(golden_clip):
    objective = TextOnly(golden_clip, RULES)
    text = torch.zeros(4000, 16)
    torch.manual_seed(0)
    scale = torch.rand(4000, 1)  # first
    wanted = scale * torch.randn(4000, 16)
    torch.manual_seed(0)
    assert torch.equal(objective.train().noised(text), wanted)
    assert torch.equal(objective.eval().noised(text), text)
    trainer = made_trainer(golden_clip, made_batches(2))
    assert trainer.validate(iter(trainer.source.all)) == trainer.validate(iter(trainer.source.all))


def test_resuming_gives_the_weights_of_an_uninterrupted_run(golden_clip):
    batches = made_batches(3)
    whole, first, second = (made_trainer(golden_clip, batches) for _ in range(3))
    losses, resumed = [], []
    whole.run(lambda loss: losses.append(float(loss)), lambda: None)
    first.run(lambda loss: resumed.append(float(loss)) or len(resumed) == 4, lambda: None)
    second.mapper.load_state_dict(first.mapper.state_dict())
    second.restore(first.saved())
    second.run(lambda loss: resumed.append(float(loss)), lambda: None)
    assert resumed == losses
    assert all(map(torch.equal, whole.mapper.parameters(), second.mapper.parameters()))


def test_parts_give_the_whole_batchs_gradient(golden_clip):
    whole, parts = (made_trainer(golden_clip, made_batches(1), None, 0.0, "none", accumulate=n) for n in (1, 3))
    losses = [float(trainer.backward(trainer.source.all[0])) for trainer in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for a, b in zip(whole.mapper.parameters(), parts.mapper.parameters(), strict=True):
        assert relative(b.grad, a.grad) < 1e-4


def two_process_steps(state: dict, folder: str) -> None:
    torch.set_num_threads(1)
    process = join("cpu")
    batches = made_batches(3, slice(process.rank * 3, process.rank * 3 + 3))
    trainer = made_trainer(clip_from_openai_state(state, "golden"), batches, process, 0.0, "none")
    losses = [float(trainer.step(batch)) for batch in batches]
    if process.is_first:
        torch.save({"losses": losses, "mapper": trainer.mapper.state_dict()}, f"{folder}/two.pt")
    leave()


def test_two_processes_give_the_update_of_one(golden_clip, golden_clip_state, tmp_path):
    one = made_trainer(golden_clip, made_batches(3), Process(), 0.0, "none")
    losses = [float(one.step(batch)) for batch in one.source.all]
    launch(two_process_steps, 2, golden_clip_state, str(tmp_path))
    two = torch.load(tmp_path / "two.pt")
    assert two["losses"] == pytest.approx(losses, abs=1e-6)
    for name, tensor in one.mapper.state_dict().items():
        assert torch.allclose(two["mapper"][name], tensor, atol=1e-5), name  # AdamW divides by tiny second moments


def write_captions(path, captions=CAPTIONS, header=False):
    lines = [f"{caption}\thttp://x.org/{n}.jpg" for n, caption in enumerate(captions)]
    path.write_text("\n".join((["caption\turl"] if header else []) + lines) + "\n")
    return path


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("few", [0, 100])
def test_captions_are_read_from_googles_tsv_and_broken_ones_counted(tmp_path, header, few, monkeypatch):
    monkeypatch.setattr("context_i2w.data.captions.FEW", few)
    path = write_captions(tmp_path / "captions.tsv", [*CAPTIONS, " "], header)
    masker = SelfMasker("offsets", "rules", 77)
    captions = Captions(path, ListColumns(), masker, 3, 77)
    batch = captions[0, [6, 0, 3]]
    assert [masker.tokenizer.decode(row) for row in batch.caption_ids] == ["a red dog on sand", "running quickly"]
    assert masker.tokenizer.decode(batch.condition_ids[0]) == "[*] on [*]"
    assert batch.broken == (("row 7", "empty caption"),)
    assert captions[0, [6]].size == 0
    assert torch.equal(batch.condition_ids, captions[5, [0, 3]].condition_ids)


def test_lists_that_do_not_fit_are_refused_in_a_line(golden_clip, tmp_path):
    path = write_captions(tmp_path / "captions.tsv", header=True)
    masker, reader = SelfMasker("offsets", "rules", 77), Reader(golden_clip, 2, 0, Process())
    with pytest.raises(UserError, match="no column 'text'; found 'caption', 'url'"):
        open_training(DataOptions(str(path), columns=ListColumns(caption="text")), reader, masker)
    with pytest.raises(UserError, match="not from shards"):
        open_training(DataOptions("a/{0..1}.tar"), reader, masker)
    with pytest.raises(UserError, match="no image is read"):
        open_training(DataOptions(str(path), feature_cache="x"), reader, masker)
    source = open_training(DataOptions(str(path), workers=0), reader, masker)
    assert source.order == "6 pairs, captions masked by offsets with rules"


def test_a_run_from_a_caption_list_says_its_masking_and_is_not_resumed_with_another(tmp_path, capsys):
    path = write_captions(tmp_path / "captions.tsv")
    clip = write_tiny_clip(tmp_path / "clip.safetensors")
    values = {"objective": "text", "train_data": str(path), "val_data": str(path), "model": "toy", "name": "run",
              "pretrained": str(clip), "logs": str(tmp_path), "batch_size": 3, "steps": 4, "workers": 0,
              "device": "cpu", "objective_option": {"parser": "rules"}}  # fmt: skip
    run = train(settings_of(values))
    assert "captions masked by offsets with rules" in capsys.readouterr().err
    saved = torch.load(run / "checkpoints" / "last.pt")
    assert saved["objective"] == "text"
    assert saved["objective_options"] == {"noise": "lincir", "masking": "offsets", "parser": "rules"}
    assert saved["training"]["order"].endswith("masked by offsets with rules")
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_loss" in line for line in logged)
    other = {"resume": str(run), "objective_option": {"parser": "rules", "noise": "none"}}
    with pytest.raises(UserError, match="objective_options"):
        train(settings_of({**values, **other}))
    with pytest.raises(UserError, match="needs more than an embedding"):
        train(settings_of({**values, "name": "other", "mapper": "context-i2w"}))
