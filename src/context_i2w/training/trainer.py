"""The training loop: one step of the contrastive objective, epochs, what is logged, saved and resumed."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from context_i2w.data.batches import PairSource
from context_i2w.data.pairs import Batch
from context_i2w.distributed import Process, gather_objects, gather_with_gradient
from context_i2w.errors import UserError
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.mappers import Mapper
from context_i2w.model.prompts import PLACEHOLDER_ID, Tokenizer, template
from context_i2w.training.losses import contrastive_loss
from context_i2w.training.optimiser import OptimOptions, learning_rate, make_optimizer, set_learning_rate

TRAINING_PROMPT = "a photo of [*]"
TRAINING_TEXTS = ("published", "caption", "mixed")
PRECISIONS = ("fp32", "amp", "bf16")
FEW_PAIRS = 1000  # the share of broken ones is judged from so many on, or at the end of an epoch


@dataclass(frozen=True)
class TrainOptions:
    """Options of the loop; the defaults are the paper's recipe where it gives one."""

    epochs: int = 30
    batch_size: int = 128  # of each process
    accumulate: int = 1  # parts that a process's batch is split into, to save memory; the update stays the same
    precision: str = "fp32"  # "amp" is float16 with a gradient scaler on a GPU, bfloat16 on the CPU
    training_text: str = "published"
    seed: int = 0
    max_broken: float = 0.1  # share of broken pairs that stops the run


@dataclass
class TrainState:
    """All that a run needs to go on exactly: saved with the mapper, restored by `Trainer.restore`.

    Random numbers are drawn from (seed, step, process), so they need no state of their own.
    """

    step: int = 0
    epoch: int = 0
    samples: int = 0  # of the epoch, over all processes
    losses: tuple[float | Tensor, int] = (0.0, 0)  # sum and number of the epoch's
    broken: Counter = field(default_factory=Counter)  # over all processes, up to the last `share_broken`


class Trainer:
    """One mapper in training: holds its optimiser and its place in the run."""

    def __init__(
        self,
        clip: FrozenCLIP,
        mapper: Mapper,
        source: PairSource,
        options: TrainOptions,
        optim: OptimOptions,
        process: Process | None = None,
        compiled: bool = False,
    ):
        self.clip, self.mapper, self.source = clip, mapper, source
        self.options, self.optim, self.process = options, optim, process or Process()
        self.state = TrainState()
        self.newly_broken: Counter = Counter()  # of this process alone, not shared yet
        self.epoch_loss = 0.0  # mean over the last epoch's steps
        self.optimizer = make_optimizer(mapper, optim)
        self.total_steps = options.epochs * source.batches
        self.forward: nn.Module = torch.compile(mapper) if compiled else mapper
        if self.process.world > 1:
            self.forward = nn.parallel.DistributedDataParallel(self.forward)
        on_gpu = self.process.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.process.device.type, enabled=options.precision == "amp" and on_gpu)
        low = torch.float16 if options.precision == "amp" and on_gpu else torch.bfloat16
        self.autocast = lambda: torch.autocast(self.process.device.type, low, enabled=options.precision != "fp32")
        self.prompt_ids = Tokenizer(clip.sizes.context_length)([template(TRAINING_PROMPT)])

    @property
    def global_batch(self) -> int:
        return self.source.batch_size * self.process.world

    def run(self, on_step: Callable[[Tensor | None], bool], on_epoch: Callable[[], None]) -> None:
        """Trains to the end of the last epoch, from wherever the state is.

        on_step gets what `step` returns and returns True to stop; on_epoch is called after each epoch.
        Raises UserError if more pairs are broken than the options allow.
        """
        self.mapper.train()
        while self.state.epoch < self.options.epochs:
            for batch in self.source.epoch(self.state.epoch, self.state.samples // self.global_batch):
                loss = self.step(batch)
                if on_step(loss):
                    return
            total, count = self.state.losses
            self.epoch_loss = float(total) / max(count, 1)
            self.state.epoch, self.state.samples, self.state.losses = self.state.epoch + 1, 0, (0.0, 0)
            self.share_broken(few=1)
            on_epoch()
            self.mapper.train()

    def step(self, batch: Batch) -> Tensor | None:
        """One update from this process's part of the global batch; returns the global batch's loss.

        A batch may be smaller than others, even empty, where pairs were broken. If nothing is left of it in any
        process, the mapper stays as it is and None is returned.
        """
        state = self.state
        self.newly_broken.update(kind for _, kind in batch.broken)
        set_learning_rate(self.optimizer, learning_rate(state.step, self.optim.lr, self.optim.warmup, self.total_steps))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch)
        if loss is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            total, count = state.losses
            state.losses = total + loss.double(), count + 1
        state.step += 1
        state.samples += self.global_batch
        return loss

    @torch.no_grad()
    def validate(self, batches: Iterator[Batch]) -> float:
        """Mean loss of the mapper in evaluation mode over held-out global batches (the published training text)."""
        self.mapper.eval()
        total = count = 0.0
        for batch in batches:
            with self.autocast():
                image, text = self._embeddings(batch, self.mapper, lambda ids: self.prompt_ids)
            images, texts = gather_with_gradient(image), gather_with_gradient(text)
            if len(images):
                loss = contrastive_loss(images, texts, self.clip.logit_scale)
                total, count = total + float(loss) * len(images), count + len(images)
        return total / max(count, 1)

    def share_broken(self, few: int = FEW_PAIRS) -> None:
        """Adds up what all processes found broken.

        Raises UserError if its share is more than the options allow, after `few` pairs or more.
        """
        for found in gather_objects(self.newly_broken):
            self.state.broken.update(found)
        self.newly_broken = Counter()
        broken, seen = sum(self.state.broken.values()), self.state.step * self.global_batch
        if seen >= few and broken / seen > self.options.max_broken:
            reasons = ", ".join(f"{kind}: {count}" for kind, count in self.state.broken.most_common(3))
            raise UserError(
                f"{broken} of {seen} training pairs were broken, more than --max-broken {self.options.max_broken} "
                f"({reasons}); mend the data or raise the bound"
            )

    def saved(self) -> dict[str, Any]:
        """State for a checkpoint, in types that load safely."""
        return {
            "step": self.state.step,
            "epoch": self.state.epoch,
            "samples": self.state.samples,
            "losses": (float(self.state.losses[0]), self.state.losses[1]),
            "broken": dict(self.state.broken),
            "order": self.source.order,
            "global_batch": self.global_batch,
            "total_steps": self.total_steps,
            "seed": self.options.seed,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "options": asdict(self.options),
            "optim": asdict(self.optim),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on where `saved` was made; the mapper's weights are loaded by the caller.

        Raises UserError if data order or schedule would differ from the run that was saved.
        """
        now = {"order": self.source.order, "global_batch": self.global_batch}
        now |= {"total_steps": self.total_steps, "seed": self.options.seed}
        for name, value in now.items():
            if saved[name] != value:
                raise UserError(
                    f"the checkpoint to resume was trained with {name} {saved[name]}, now it is {value}; "
                    "give the same data, --epochs, --seed, and --batch-size times processes"
                )
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        losses = saved.get("losses", (0.0, 0))  # older checkpoints have none
        self.state = TrainState(saved["step"], saved["epoch"], saved["samples"], losses, Counter(saved["broken"]))

    def _backward(self, batch: Batch) -> Tensor | None:
        """Gradients of the global loss; the batch goes through in `accumulate` parts. None if no pair is left.

        The contrastive loss needs all features at once, so with several parts they are computed first without
        gradients, then the loss's gradient with respect to them is carried back part by part.
        """
        parts = _split(batch, self.options.accumulate)
        if len(parts) == 1:
            image, text = self._compose(parts[0], 0)
            return self._backward_of_loss(image, text)
        with torch.no_grad():
            pairs = [self._compose(part, number) for number, part in enumerate(parts)]
        image = torch.cat([i for i, _ in pairs])
        text = torch.cat([t for _, t in pairs]).requires_grad_()
        loss = self._backward_of_loss(image, text)
        for number, (part, gradient) in enumerate(zip(parts, text.grad.split([p.size for p in parts]), strict=True)):
            last = number == len(parts) - 1
            with self._no_sync(not last):
                self._compose(part, number)[1].backward(gradient)
        return loss

    def _backward_of_loss(self, image: Tensor, text: Tensor) -> Tensor | None:
        images, texts = gather_with_gradient(image), gather_with_gradient(text)
        if len(images) == 0:
            text.sum().backward()  # zeros; processes meet here, whether they have pairs or not
            return None
        loss = contrastive_loss(images, texts, self.clip.logit_scale)
        self.scaler.scale(loss * self.process.world).backward()  # DDP averages over processes
        return loss.detach()

    def _compose(self, batch: Batch, part: int) -> tuple[Tensor, Tensor]:
        """Image embeddings and composed text features [B, E]; the same random numbers whenever it is called."""
        seed_step(self.options.seed, self.state.step, self.process.rank * self.options.accumulate + part)
        with self.autocast():
            return self._embeddings(batch, self.forward, self._prompts)

    def _embeddings(
        self, batch: Batch, mapper: Callable[..., Tensor], prompts: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        if batch.size == 0:  # DDP wants a forward pass all the same: of one pair, of which nothing is kept
            size = self.clip.sizes.image_size
            blank = Batch(self.prompt_ids, images=torch.zeros(1, 3, size, size))
            target, text = self._embeddings(blank, mapper, prompts)
            return target[:0], text[:0]
        image, condition = self._features(batch)
        text = self.clip.compose(prompts(batch.condition_ids), mapper(condition, image))
        return self._targets(batch, image), text

    def _features(self, batch: Batch) -> tuple[ImageFeatures, Tensor | None]:
        device = self.process.device
        if batch.features is not None:
            embedding, tokens = batch.features
            image = ImageFeatures(
                embedding.to(device, non_blocking=True),
                tokens.to(device, non_blocking=True).float() if tokens is not None else None,  # kept as float16
            )
        else:
            image = self.clip.encode_image(batch.images)
        if not self.mapper.uses_condition:
            return image, None
        if batch.condition is not None:
            return image, batch.condition.to(device, non_blocking=True)
        return image, self.clip.encode_text(batch.condition_ids)

    def _targets(self, batch: Batch, image: ImageFeatures) -> Tensor:
        """Embeddings [B, E] that the composed text is to match."""
        if batch.target_embeddings is not None:
            return batch.target_embeddings.to(self.process.device, non_blocking=True)
        if batch.targets is not None:
            return self.clip.encode_image(batch.targets).embedding
        return image.embedding

    def _prompts(self, masked_ids: Tensor) -> Tensor:
        """Token ids that the pseudo-word is put into: the published prompt, or the masked caption itself."""
        text = self.options.training_text
        if text == "published" or (text == "mixed" and self.state.step % 2 == 0):
            return self.prompt_ids
        has_placeholder = (masked_ids == PLACEHOLDER_ID).any(dim=1, keepdim=True)
        return torch.where(has_placeholder, masked_ids, self.prompt_ids)

    def _no_sync(self, skip: bool):
        if skip and isinstance(self.forward, nn.parallel.DistributedDataParallel):
            return self.forward.no_sync()
        return contextlib.nullcontext()


def seed_step(seed: int, step: int, part: int) -> None:
    """Sets torch's random numbers (dropout) for one part of one step, so that resuming needs no random state."""
    torch.manual_seed(((seed * 1_000_003 + step) * 1_009 + part) % 2**63)


def _split(batch: Batch, count: int) -> list[Batch]:
    if count == 1 or batch.size == 0:
        return [batch]
    size = -(-batch.size // count)
    return [_rows(batch, slice(i, i + size)) for i in range(0, batch.size, size)]


def _rows(batch: Batch, rows: slice) -> Batch:
    take = lambda x: None if x is None else x[rows]  # noqa: E731
    features = batch.features and ImageFeatures(batch.features.embedding[rows], take(batch.features.tokens))
    return Batch(
        batch.condition_ids[rows],
        take(batch.images),
        features,
        take(batch.condition),
        targets=take(batch.targets),
        target_embeddings=take(batch.target_embeddings),
    )


class Stopwatch:
    """Samples per second since the last reading."""

    def __init__(self):
        self.samples, self.since = 0, time.perf_counter()

    def add(self, samples: int) -> None:
        self.samples += samples

    def read(self) -> float:
        now = time.perf_counter()
        rate = self.samples / max(now - self.since, 1e-9)
        self.samples, self.since = 0, now
        return rate
