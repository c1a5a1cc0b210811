"""One training step, forward and backward: the published way, ours, with cached tokens, with a cached condition.

The optimiser is left out: it is the same in every way.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarking.made_cache import make_cache
from benchmarking.timing import MATMUL, added_memory, alternate, matmul
from context_i2w.data.batch import Batch
from context_i2w.data.reading import pinned
from context_i2w.distributed import Process
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.mappers import ContextI2W
from context_i2w.model.prompts import Tokenizer, template
from context_i2w.training.objective import TRAINING_PROMPT
from context_i2w.training.optimiser import OptimOptions
from context_i2w.training.trainer import Trainer, TrainOptions
from published_way import plain_step
from step_work import WAYS, TowerShape

# Twenty positions, start and end among them, with different first words.
CAPTIONS = [
    template(f"{word} [*] in the park near the lake on a sunny day with some people and a dog")
    for word in ("a", "one", "the")
]


class Step:
    """The same training step in several ways. precision: "fp32" or "bf16"."""

    def __init__(self, clip: FrozenCLIP, batch: int, precision: str, compiled: bool, folder: Path):
        self.plain = clip  # of the published way, and of the steps that follow
        clip = copy.deepcopy(clip) if compiled else clip
        self.clip, self.batch, self.precision = clip, batch, precision
        torch.manual_seed(0)
        self.mapper = ContextI2W(clip.sizes).to(clip.device)
        self.mapper.gate.data.fill_(0.5)  # open: both branches do something
        process = Process(device=clip.device)
        options = TrainOptions(batch_size=batch, precision=precision)
        source = SimpleNamespace(batches=1, batch_size=batch)  # what a trainer asks of its data
        self.trainer = Trainer(clip, self.mapper, source, options, OptimOptions(), process, compiled)
        tokenizer = Tokenizer(clip.sizes.context_length)
        self.ids = tokenizer([CAPTIONS[i % len(CAPTIONS)] for i in range(batch)])
        self.prompt = tokenizer([template(TRAINING_PROMPT)])
        size = clip.sizes.image_size
        coarse = torch.randn(batch, 3, 8, 8)  # patterns of colours: pure noise would look all the same
        self.images = interpolate(coarse, size=(size, size), mode="bicubic").to(clip.device)
        self.read: Batch | None = None
        self.cache = make_cache(
            folder,
            clip.sizes,
            batch,
            lambda rows: clip.encode_image(self.images[rows]),
            lambda rows: (self.ids[rows], clip.encode_text(self.ids[rows])),
        )
        self.read = pinned(self._cached()) if clip.device.type == "cuda" else None

    def ways(self) -> dict[str, Callable[[], Tensor]]:
        return {
            "published": self.published,
            "ours": lambda: self._ours(Batch(self.ids, images=self.images)),
            "ours, image tokens cached": lambda: self._ours(self._cached()._replace(condition=None)),
            "ours, condition cached too": lambda: self._ours(self._cached()),
        }

    def published(self) -> Tensor:
        with _unfrozen(self.plain), self.trainer.autocast():
            self.trainer.optimizer.zero_grad()
            ids, prompt = self.ids.to(self.clip.device), self.prompt.to(self.clip.device)
            return plain_step(self.plain, self.mapper, self.images, ids, prompt)

    def first_run(self) -> dict[str, dict[str, Any]]:
        """Added bytes of each way, and its relative difference to the published one: of the loss or of the whole
        gradient, whichever is larger; dropout off."""
        self.mapper.eval()
        results, found = {}, {}
        for name, compute in self.ways().items():
            self.trainer.optimizer.zero_grad()  # the gradients belong to the added memory
            found[name] = {
                "added": added_memory(lambda name=name, f=compute: results.update({name: f()}), self.clip.device)
            }
            gradient = torch.cat([p.grad.detach().flatten() for p in self.mapper.parameters()])
            results[name] = (results[name].clone(), gradient)
            found[name]["difference"] = max(map(_relative, results[name], results["published"]))
        self.mapper.train()
        return found

    def _ours(self, batch: Batch) -> Tensor:
        self.trainer.optimizer.zero_grad()
        return self.trainer.backward(batch)

    def _cached(self) -> Batch:
        """On a GPU read beforehand, into memory that it reads by itself, as training's threads do."""
        return self.read or self.cache[0, range(self.batch)]


def measure_steps(
    clip: FrozenCLIP, shape: TowerShape, batch: int, repeats: int, product: int, precision: str = "fp32", compiled=False
) -> dict[str, Any]:
    """Differences, seconds, ratios, rates and added memory of every way. product: size of the matrix product."""
    with tempfile.TemporaryDirectory() as folder:
        step = Step(clip, batch, precision, compiled, Path(folder))
        first = step.first_run()
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        multiply, work = matmul(product, clip.device, dtype)
        multiply()
        seconds = alternate({MATMUL: multiply, **step.ways()}, repeats, clip.device)
    peak = work / seconds.pop(MATMUL)
    rows = {}
    for name, value in seconds.items():
        rate = batch * WAYS[name].per_sample(shape) / value
        rows[name] = {
            "seconds": value,
            "published / it": seconds["published"] / value,
            "GFLOP per sample": WAYS[name].per_sample(shape) / 1e9,
            "GFLOP/s": rate / 1e9,
            "share of matrix product": rate / peak,
            "added MB": first[name]["added"] and first[name]["added"] / 1e6,
            "difference to published": first[name]["difference"],
        }
    return {"batch": batch, "precision": precision, "compiled": compiled, "matmul GFLOP/s": peak / 1e9, "ways": rows}


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@contextmanager
def _unfrozen(clip: FrozenCLIP) -> Iterator[None]:
    clip.requires_grad_(True)
    try:
        yield
    finally:
        clip.requires_grad_(False)
        for parameter in clip.parameters():
            parameter.grad = None
