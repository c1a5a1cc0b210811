"""How the tiny CLIP of the toy world is trained: its data in memory, its losses, its steps."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from context_i2w.model.images import normalised
from context_i2w.model.prompts import Tokenizer, mark_placeholders
from context_i2w.toy_world.captions import make_caption, make_masked_pair
from context_i2w.toy_world.scenes import Scene, random_scene, stream_key
from context_i2w.toy_world.writing import draw_arrays
from context_i2w.training.objective import contrastive_loss
from context_i2w.training.optimiser import set_learning_rate
from prompt_bank import Bank, banks
from tiny_clip import WordTable, encode_rows, new_tiny_clip, save_tiny_clip

if TYPE_CHECKING:
    from toy_clip.pretrain import Recipe

TEXT_GROUPS = 4  # of texts alike in length: more of them would be too small for the matrix products


class PretrainingData:
    """Pictures, caption ids and prompt labels in memory, and groups to draw batches from."""

    def __init__(self, recipe: Recipe, table: WordTable):
        key = stream_key(recipe.seed, "pretraining")
        scenes = [random_scene(key, number) for number in range(recipe.images)]
        self.pixels = torch.from_numpy(draw_arrays(scenes, title="drawing"))
        self.caption_rows = self._captions(scenes, recipe, table)
        self.banks = banks()
        self.targets = [_bank_targets(bank, scenes) for bank in self.banks]
        self.bank_rows = [trimmed(table.rows(Tokenizer()(list(bank.prompts.values())))) for bank in self.banks]
        self.single = np.array([number for number, scene in enumerate(scenes) if len(scene.things) == 1])
        keys = (lambda s: (s.domain, s.background), lambda s: (s.domain, s.kinds()[0]))
        self.groups = [_groups(scenes, key, recipe.batch // 8) for key in keys]

    @staticmethod
    def _captions(scenes: list[Scene], recipe: Recipe, table: WordTable) -> Tensor:
        """Table rows [images, captions, L]."""
        tokenizer = Tokenizer(32)
        rng = np.random.default_rng((recipe.seed, 7))
        rows = []
        for scene in tqdm(scenes, desc="captions", leave=False):
            masked = rng.random(recipe.captions) < recipe.masked_share
            texts = [
                mark_placeholders(make_masked_pair(scene, n)[1]) if masked[n] else make_caption(scene, n).text()
                for n in range(recipe.captions)
            ]
            rows.append(table.rows(tokenizer(texts)).short())
        return torch.stack(rows)

    def batch(self, step: int, recipe: Recipe) -> np.ndarray:
        """Image numbers of a step."""
        rng = np.random.default_rng((recipe.seed, 8, step))
        if step < recipe.single_until * recipe.steps:
            count = int(0.8 * recipe.batch)
            rest = rng.integers(len(self.pixels), size=recipe.batch - count)
            return np.concatenate([rng.choice(self.single, count), rest])
        if rng.random() < 0.5:
            return rng.integers(len(self.pixels), size=recipe.batch)
        groups = self.groups[int(rng.integers(2))]
        parts = [groups[i] for i in rng.permutation(len(groups))[:4]]  # four groups of a quarter batch each
        return np.concatenate([rng.choice(part, recipe.batch // len(parts)) for part in parts])


def _groups(scenes: list[Scene], key: Callable, smallest: int) -> list[np.ndarray]:
    """Numbers of the scenes that share a key, groups of fewer than `smallest` left out."""
    members: dict = {}
    for number, scene in enumerate(scenes):
        members.setdefault(key(scene), []).append(number)
    return [np.array(numbers) for numbers in members.values() if len(numbers) >= smallest]


def _bank_targets(bank: Bank, scenes: list[Scene]) -> Tensor:
    """Shares [images, prompts] that add up to one, or to zero where the bank says nothing; float16."""
    targets = torch.zeros(len(scenes), len(bank.prompts), dtype=torch.float16)
    for number, scene in enumerate(scenes):
        labels = bank.labels(scene)
        targets[number, labels] = 1 / max(len(labels), 1)
    return targets


def trimmed(rows: Tensor) -> Tensor:
    """As many positions as the longest text needs."""
    return rows[:, : int(rows.argmax(1).max()) + 1].long()


def prepared(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Normalised images [B, 3, S, S] of uint8 [B, S, S, 3]; half the batches mirrored, all shifted a little."""
    images = normalised(pixels.permute(0, 3, 1, 2), OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    if rng.random() < 0.5:
        images = images.flip(-1)
    size, (dy, dx) = images.shape[-1], rng.integers(0, 5, 2)
    return F.pad(images, (2, 2, 2, 2), mode="replicate")[..., dy : dy + size, dx : dx + size].contiguous()


def encode_texts(model, texts: list[Tensor]) -> list[Tensor]:
    """Embeddings [n, E] of each of several sets of table rows [n, L], neighbours in length encoded together.

    Attention is causal, so positions after a text's end only cost time.
    """
    longest = max(rows.shape[1] for rows in texts)
    every = torch.cat([F.pad(rows, (0, longest - rows.shape[1])) for rows in texts])
    order = every.argmax(1).argsort(stable=True)
    parts = [encode_rows(model, trimmed(every[part])) for part in order.chunk(TEXT_GROUPS)]
    return torch.cat(parts)[order.argsort()].split([len(rows) for rows in texts])


def bank_loss(image: Tensor, texts: list[Tensor], targets: list[Tensor], scale: Tensor) -> Tensor:
    """Soft cross-entropy, one for each bank, of images against the bank's prompts, in float32: [banks]."""
    image = F.normalize(image.float(), dim=-1)
    losses = []
    for text, target in zip(texts, targets, strict=True):
        target = target.float()
        logits = scale.exp() * image @ F.normalize(text.float(), dim=-1).T
        told = target.sum(1)
        losses.append(-(target * logits.log_softmax(1)).sum() / told.sum().clamp(min=1))
    return torch.stack(losses)


def losses_of(model, data: PretrainingData, step: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Contrastive loss of a step, and that of each bank."""
    rng = np.random.default_rng((recipe.seed, 9, step))
    chosen = torch.from_numpy(data.batch(step, recipe))
    images = prepared(data.pixels[chosen], rng)
    captions = trimmed(data.caption_rows[chosen, torch.from_numpy(rng.integers(0, recipe.captions, len(chosen)))])
    low = recipe.precision == "bf16"
    # Fused attention's backward pass is many times slower than plain matrix products in bfloat16 on CPUs.
    attention = sdpa_kernel(SDPBackend.MATH) if low else contextlib.nullcontext()
    with torch.autocast("cpu", torch.bfloat16, enabled=low), attention:
        image = model.visual(images)
        text, *prompts = encode_texts(model, [captions, *data.bank_rows])
    scale = model.logit_scale
    contrastive = contrastive_loss(image, text, scale)
    return contrastive, bank_loss(image, prompts, [target[chosen] for target in data.targets], scale)


def optimiser_of(model, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; matrices decay, vectors do not."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    others = [p for name, p in named if not (p.ndim >= 2 and "embedding" not in name)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def pretrain(recipe: Recipe, config: dict, output: Path) -> None:
    """Trains and writes the weights and the log."""
    started, cpu_started = time.perf_counter(), sum(os.times()[:4])  # CPU: with the drawing processes, its children
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    table = WordTable()
    model = new_tiny_clip(config, table).train()
    optimiser = optimiser_of(model, recipe)
    data = PretrainingData(recipe, table)
    with (output / "pretrain.log").open("w") as log:

        def note(line: str) -> None:
            tqdm.write(line)
            print(line, file=log, flush=True)

        def clock() -> str:
            return f"{time.perf_counter() - started:.0f} s, CPU {sum(os.times()[:4]) - cpu_started:.0f} s"

        note(f"recipe {json.dumps(asdict(recipe))}")
        note(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(table)} word pieces")
        note(f"pictures and captions ready after {clock()}")
        for step in tqdm(range(recipe.steps), desc="pretraining", unit="step"):
            rate = min((step + 1) / recipe.warmup, 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))
            set_learning_rate(optimiser, recipe.learning_rate * rate)
            contrastive, bank = losses_of(model, data, step, recipe)
            optimiser.zero_grad()
            (contrastive + recipe.bank_weight * bank.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
            if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
                parts = " ".join(f"{b.name} {loss:.3f}" for b, loss in zip(data.banks, bank.tolist()))
                scale = model.logit_scale.exp().item()
                note(f"step {step + 1}: contrastive {contrastive.item():.3f} {parts} scale {scale:.1f} ({clock()})")
                save_tiny_clip(model, table, output / "toy_clip.safetensors")
        size = (output / "toy_clip.safetensors").stat().st_size
        note(f"wrote toy_clip.safetensors, {size / 1e6:.2f} MB, after {clock()}")
