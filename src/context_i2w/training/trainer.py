"""Training: one update of a mapper under its objective, epochs, the place in the run that is saved and resumed."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from context_i2w.data.batch import Batch
from context_i2w.data.batches import PairSource
from context_i2w.distributed import Process, gather_with_gradient
from context_i2w.errors import UserError
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.compiling import OPTIONS
from context_i2w.model.mappers import Mapper
from context_i2w.model.prompts import PLACEHOLDER_ID, Tokenizer, template
from context_i2w.training.objective import Contrastive, Objective, seen
from context_i2w.training.optimiser import learning_rate, make_optimizer, set_learning_rate
from context_i2w.training.options import OptimOptions, TrainOptions
from context_i2w.training.saved_state import unlike

# What a run must keep when it is resumed: how it is said, and what to do.
OF_A_RUN = {
    "order": ("in the order of", "give the same data, --shuffle and --batches"),
    "global_batch": ("with a global batch of", "give the same --batch-size times processes"),
    "total_steps": ("for so many steps in all, to which its learning rates are fitted:", "give the same --epochs"),
    "seed": ("with seed", "give the same --seed"),
}
FEW_PAIRS = 1000  # the share of broken ones is judged from so many on, or at the end of an epoch


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


class Composing(nn.Module):
    """Mapper and objective as one module, so that whatever either of them learns is synchronised alike."""

    def __init__(self, clip: FrozenCLIP, mapper: Mapper, objective: Objective, compiled: bool = False):
        super().__init__()
        self.mapper, self.objective = mapper, objective
        if compiled:
            clip.compile_vision()  # in place: evaluations between epochs see by it too
        # in a tuple, so that they are no parameters of this module
        self.frozen = (clip, torch.compile(mapper, options=OPTIONS) if compiled else mapper)

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        return self.objective(*self.frozen, batch, step)


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
        objective: Objective | None = None,
        max_broken: float = 0.1,
    ):
        """objective: the published one if left out. max_broken: share of broken pairs that stops the run."""
        self.clip, self.mapper, self.source = clip, mapper, source
        self.options, self.optim, self.process = options, optim, process or Process()
        objective = objective or Contrastive(clip, training_text=options.training_text)
        self.objective = objective.to(self.process.device)
        self.state, self.max_broken = TrainState(), max_broken
        self.newly_broken: Counter = Counter()  # of this process alone, not shared yet
        self.without_place = 0  # pairs whose caption has no placeholder among the tokens that CLIP reads
        self.epoch_loss = 0.0  # mean over the last epoch's steps
        self.optimizer = make_optimizer(mapper, optim, self.objective)
        self.total_steps = options.steps or options.epochs * source.batches
        self.epochs = -(-self.total_steps // source.batches)  # the last of them may end early
        self.both = Composing(clip, mapper, self.objective, compiled)
        self.composing: Any = self.both
        if self.process.world > 1:
            self.composing = nn.parallel.DistributedDataParallel(self.both, broadcast_buffers=False)
        on_gpu = self.process.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.process.device.type, enabled=options.precision == "amp" and on_gpu)
        low = torch.float16 if options.precision == "amp" and on_gpu else torch.bfloat16
        self.autocast = lambda: torch.autocast(
            self.process.device.type, low, enabled=options.precision not in (None, "fp32")
        )

    @property
    def global_batch(self) -> int:
        return self.source.batch_size * self.process.world

    @property
    def finished(self) -> bool:
        return self.state.epoch >= self.epochs

    def run(self, on_step: Callable[[Tensor | None], bool], on_epoch: Callable[[], None]) -> None:
        """Trains to the end of the last epoch, from wherever the state is.

        on_step gets what `step` returns and returns True to stop; on_epoch is called after each epoch.
        Raises UserError if more pairs are broken than the options allow.
        """
        while not self.finished:
            self.both.train()
            for batch in self.source.epoch(self.state.epoch, self.state.samples // self.global_batch):
                if self.state.step == self.total_steps:
                    break
                if on_step(self.step(batch)):
                    return
            total, count = self.state.losses
            self.epoch_loss = float(total) / max(count, 1)
            self.state.epoch, self.state.samples, self.state.losses = self.state.epoch + 1, 0, (0.0, 0)
            self.share_broken(few=1)
            on_epoch()

    def step(self, batch: Batch) -> Tensor | None:
        """One update from this process's part of the global batch; returns the global batch's loss.

        A batch may be smaller than others, even empty, where pairs were broken. If nothing is left of it in any
        process, the mapper stays as it is and None is returned.
        """
        state = self.state
        self.newly_broken.update(kind for _, kind in batch.broken)
        self.without_place += int((batch.condition_ids != PLACEHOLDER_ID).all(dim=1).sum())
        rate = learning_rate(state.step, self.optim.lr, self.optim.warmup, self.total_steps, self.optim.schedule)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch)
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
        """Mean loss in evaluation mode over held-out global batches (the published training text)."""
        self.both.eval()
        total = count = 0.0
        for batch in batches:
            targets, texts = map(gather_with_gradient, self.compose(batch, self.both))
            if len(targets):
                total, count = total + float(self.objective.loss(targets, texts)) * len(targets), count + len(targets)
        return total / max(count, 1)

    def share_broken(self, few: int = FEW_PAIRS) -> None:
        """Adds up what all processes found broken.

        Raises UserError if its share is more than the options allow, after `few` pairs or more.
        """
        for found in self.process.everyone(self.newly_broken):
            self.state.broken.update(found)
        self.newly_broken = Counter()
        broken, seen = sum(self.state.broken.values()), self.state.step * self.global_batch
        if seen >= few and broken / seen > self.max_broken:
            reasons = ", ".join(f"{kind}: {count}" for kind, count in self.state.broken.most_common(3))
            raise UserError(
                f"{broken} of {seen} training pairs were broken, more than --max-broken {self.max_broken:g} "
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
            "objective": self.objective.state_dict(),
            "scaler": self.scaler.state_dict(),
            "options": asdict(self.options),
            "optim": asdict(self.optim),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on where `saved` was made; the mapper's weights are loaded by the caller.

        Raises UserError if it is damaged, or data order or schedule would differ from the run that was saved.
        """
        own = self.saved()
        if fault := unlike(saved, own, self.optimizer, self.epochs):
            raise UserError(f"the checkpoint to resume is damaged ({fault}); resume from another one")
        for name, (said, remedy) in OF_A_RUN.items():
            if saved[name] != own[name]:
                was = f"the checkpoint to resume was trained {said} {saved[name]}, now it is {own[name]}"
                raise UserError(f"{was}; {remedy}, or start anew without --resume")
        self.optimizer.load_state_dict(saved["optimizer"])
        self.objective.load_state_dict(saved.get("objective", {}))  # older checkpoints: one without parameters
        if saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        losses = saved.get("losses", (0.0, 0))  # older checkpoints have none
        self.state = TrainState(saved["step"], saved["epoch"], saved["samples"], losses, Counter(saved["broken"]))

    def backward(self, batch: Batch) -> Tensor | None:
        """Gradients of the global loss; the batch goes through in `accumulate` parts. None if no pair is left.

        A loss over the whole batch needs all features at once, so with several parts they are computed first without
        gradients, then the loss's gradient with respect to them is carried back part by part. CLIP's features of images
        and conditions are kept in between.
        """
        parts = _split(batch, self.options.accumulate)
        if len(parts) == 1:
            target, text = self._compose_part(parts[0], 0)
        else:
            with torch.no_grad(), self.autocast():
                parts = [seen(self.clip, self.mapper, part) for part in parts]
                pairs = [self._compose_part(part, number) for number, part in enumerate(parts)]
            target, text = (torch.cat(features) for features in zip(*pairs))
            text.requires_grad_()
        targets, texts = gather_with_gradient(target), gather_with_gradient(text)
        if len(targets) == 0:
            text.sum().backward()  # zeros; processes meet here, whether they have pairs or not
            return None
        loss = functional_call(self.objective.loss, self._shared(), (targets, texts))
        self.scaler.scale(loss * self.process.world).backward()  # DDP averages over processes
        if len(parts) > 1:
            assert text.grad is not None  # of the backward pass above
            self._carry_back(parts, text.grad.split([part.size for part in parts]))
        return loss.detach()

    def _carry_back(self, parts: Sequence[Batch], gradients: Sequence[Tensor]) -> None:
        """From the gradients of the composed texts to those of what is learned, part by part."""
        for number, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
            waits = number < len(parts) - 1 and isinstance(self.composing, nn.parallel.DistributedDataParallel)
            with self.composing.no_sync() if waits else contextlib.nullcontext():
                self._compose_part(part, number)[1].backward(gradient)

    def _shared(self) -> dict[str, Tensor]:
        """The loss's parameters with 1/world of their gradient: every process computes all of the loss."""
        world = self.process.world
        named = self.objective.loss.named_parameters() if world > 1 else ()
        return {name: p / world + (p - p / world).detach() for name, p in named}

    def _compose_part(self, batch: Batch, part: int) -> tuple[Tensor, Tensor]:
        """`compose` with random numbers (dropout) of this seed, step and part: resuming needs no random state."""
        place = self.process.rank * self.options.accumulate + part
        torch.manual_seed(((self.options.seed * 1_000_003 + self.state.step) * 1_009 + place) % 2**63)
        return self.compose(batch, self.composing)

    def compose(self, batch: Batch, composing: nn.Module) -> tuple[Tensor, Tensor]:
        """What is to be matched and the composed texts [B, E] of this process's pairs."""
        with self.autocast():
            if batch.size:
                return composing(batch, self.state.step)
            target, text = composing(self._one_pair(), self.state.step)  # DDP wants a forward pass all the same
        return target[:0], text[:0]

    def _one_pair(self) -> Batch:
        """A pair of a blank image and the shortest prompt."""
        size = self.clip.sizes.image_size
        ids = Tokenizer(self.clip.sizes.context_length)([template("[*]")])
        return Batch(ids, images=torch.zeros(1, 3, size, size), caption_ids=ids)


def _split(batch: Batch, count: int) -> list[Batch]:
    if count == 1 or batch.size == 0:
        return [batch]
    size = -(-batch.size // count)
    return [_rows(batch, slice(i, i + size)) for i in range(0, batch.size, size)]


def _rows(batch: Batch, rows: slice) -> Batch:
    def take(part: Any) -> Any:
        if isinstance(part, ImageFeatures):
            return ImageFeatures(*map(take, part))
        return part[rows] if isinstance(part, Tensor) else part

    return Batch(*map(take, batch))
