"""The published objective: image -> word -> composed text -> what it must match, over the global batch.

Shapes: B pairs of this process, G of all processes, L text positions, E joint embedding width, T text width.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from context_i2w.data.batch import Batch
from context_i2w.data.captions import Masker
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.mappers import Mapper
from context_i2w.model.prompts import PLACEHOLDER_ID, Tokenizer, template
from context_i2w.training.options import NoOptions

TRAINING_PROMPT = "a photo of [*]"


class Objective(nn.Module):
    """What a mapper is trained for. One of your own: subclass this (or Contrastive) and name it on the command line,
    `--objective my_file.py:MyObjective` (docs/extending.md).

    Learned parameters are optimised, saved, resumed and synchronised like the mapper's, whether they belong to the
    objective itself or to its `loss`. `recipe`: defaults of src/main.py's options that go with it, by field name.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    Options: ClassVar[type] = NoOptions
    recipe: ClassVar[dict[str, Any]] = {}
    toy_recipe: ClassVar[dict[str, Any]] = {}  # what the toy world changes of it
    reads_images: ClassVar[bool] = True  # False: captions alone are read, and masked by `masker`
    masker: Masker | None = None
    # (what is to be matched [G, E], composed text [G, E]) -> mean loss; every process computes all of it
    loss: nn.Module

    def __init__(self, clip: FrozenCLIP, options: Any = None, training_text: str = "published"):
        super().__init__()
        self.options = options or self.Options()

    def forward(self, clip: FrozenCLIP, mapper: Mapper, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """What is to be matched [B, E] and the composed text [B, E] of this process's pairs, neither normalised.

        In evaluation mode (validation) as published, whatever the options.
        """
        raise NotImplementedError


class Contrastive(Objective):
    """The paper's: the composed text picks out its image among all images of the batch, and the image its text."""

    name, title, paper = "contrastive", "contrastive", "https://arxiv.org/abs/2309.16137"

    def __init__(self, clip: FrozenCLIP, options: Any = None, training_text: str = "published"):
        super().__init__(clip, options)
        self.training_text = training_text
        self.loss = ContrastiveLoss(clip.logit_scale)
        # [1, L], no buffer: it stays where captions' ids are, for what is asked of ids does not wait for a GPU there
        self.prompt = Tokenizer(clip.sizes.context_length)([template(TRAINING_PROMPT)])

    def forward(self, clip: FrozenCLIP, mapper: Mapper, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        image = see(clip, batch)
        condition = read_condition(clip, batch) if mapper.uses_condition else None
        word = mapper(condition, image)
        text = clip.compose(self.prompts(batch.condition_ids, step), word)
        return targets(clip, batch, image), text

    def prompts(self, masked_ids: Tensor, step: int) -> Tensor:
        """Token ids [1 or B, L] that the word is put into: the prompt, or the masked caption where it has a place."""
        if not self.training or self.training_text == "published" or (self.training_text == "mixed" and step % 2 == 0):
            return self.prompt
        has_placeholder = (masked_ids == PLACEHOLDER_ID).any(dim=1, keepdim=True)
        return torch.where(has_placeholder, masked_ids, self.prompt)


class ContrastiveLoss(nn.Module):
    """CLIP's symmetric cross-entropy with its own temperature; logit_scale: the factor's logarithm."""

    logit_scale: Tensor

    def __init__(self, logit_scale: Tensor):
        super().__init__()
        self.register_buffer("logit_scale", logit_scale.detach().clone(), persistent=False)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        return contrastive_loss(images, texts, self.logit_scale)


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch, the i-th text belonging to the i-th image.

    images, texts: [G, E], of any length; logit_scale: the factor's logarithm (CLIP's own parameter).
    Mean of the two cross-entropies of exp(s)·I·Tᵀ and its transpose, I and T unit length; computed in float32.
    Source: paper, training objective (its equation is CLIP's loss with the composed text as T).
    """
    images = F.normalize(images.float(), dim=-1)
    texts = F.normalize(texts.float(), dim=-1)
    logits = logit_scale.float().exp() * images @ texts.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def seen(clip: FrozenCLIP, mapper: Mapper, batch: Batch) -> Batch:
    """The batch with features in place of images, as from a cache, so that it can be composed again without CLIP's
    towers; without images it stays as it is."""
    if batch.images is None:
        return batch
    image = see(clip, batch)
    return batch._replace(
        images=None,
        targets=None,
        features=image if mapper.uses_tokens else ImageFeatures(image.embedding, None),
        condition=read_condition(clip, batch) if mapper.uses_condition else None,
        target_embeddings=batch.target_embeddings if batch.targets is None else targets(clip, batch, image),
    )


def see(clip: FrozenCLIP, batch: Batch) -> ImageFeatures:
    """CLIP's features of the reference images, computed or cached."""
    if batch.features is None:
        assert batch.images is not None  # a batch has one or the other
        return clip.encode_image(batch.images)
    embedding, tokens = batch.features
    if tokens is not None:
        tokens = tokens.to(clip.device, non_blocking=True).float()  # kept as float16 or int8
        if batch.scale is not None:
            tokens = tokens * batch.scale.to(clip.device, non_blocking=True)[..., None]
    return ImageFeatures(embedding.to(clip.device, non_blocking=True), tokens)


def read_condition(clip: FrozenCLIP, batch: Batch) -> Tensor:
    """Embeddings [B, E] of the masked captions, computed or cached."""
    if batch.condition is None:
        return clip.encode_text(batch.condition_ids)
    return batch.condition.to(clip.device, non_blocking=True)


def targets(clip: FrozenCLIP, batch: Batch, image: ImageFeatures) -> Tensor:
    """Embeddings [B, E] that the composed text is to match: the image's own, unless the mapper saw another view."""
    if batch.target_embeddings is not None:
        return batch.target_embeddings.to(clip.device, non_blocking=True)
    if batch.targets is not None:
        return clip.encode_image(batch.targets).embedding
    return image.embedding
