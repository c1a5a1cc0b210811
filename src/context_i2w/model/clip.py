"""Frozen CLIP: one pass per image, text only as long as it is, pseudo-word tokens put into prompts.

Shapes: B batch, N image tokens (class token first), V vision width, E joint embedding width,
T text width (width of a word embedding), L text positions.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import open_clip
import torch
from torch import Tensor, nn

from context_i2w.errors import UserError
from context_i2w.model.backbones import CLIPSizes
from context_i2w.model.compiling import OPTIONS
from context_i2w.model.identity import GELU, OPENAI_SIZES, QUICK_GELU, CLIPIdentity, transform_of
from context_i2w.model.images import ImageTransform, normalised
from context_i2w.model.prompts import PLACEHOLDER_ID, Tokenizer
from context_i2w.model.shared_prefix import can_share_prefix, run_after_prefix
from context_i2w.model.tensor_files import VOCABULARY


class ImageFeatures(NamedTuple):
    """What one pass of the vision tower gives."""

    embedding: Tensor  # [B, E] not normalised
    # Tensor [B, N, V], the last block's output before the final LayerNorm, class token first; None only for mappers
    # with `uses_tokens` False, so that the others need not ask.
    tokens: Any


class FrozenCLIP(nn.Module):
    """One of open_clip's ViT models with CLIP's byte-pair text tower, frozen and in evaluation mode.

    Gradients flow through the text tower to a pseudo-word token, never into a weight.
    """

    visual: open_clip.transformer.VisionTransformer
    token_embedding: nn.Embedding
    positional_embedding: Tensor
    transformer: open_clip.transformer.Transformer
    text_projection: nn.Module | Tensor
    logit_scale: Tensor
    attn_mask: Tensor
    known_words: Tensor | None

    def __init__(self, model: open_clip.CLIP | open_clip.CustomTextCLIP, name: str):
        super().__init__()
        self.name = name
        self.visual = model.visual
        # open_clip keeps the text tower's parts in `model.text`, or directly in the model for classic CLIP.
        text = getattr(model, "text", model)
        self._check_supported(model, text)
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.transformer = text.transformer
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.logit_scale = model.logit_scale
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        self.register_buffer("known_words", self._known_words(), persistent=False)
        self.transform: ImageTransform = transform_of(open_clip.get_model_preprocess_cfg(model), self.sizes.image_size)
        self.image_mean, self.image_std = self.transform.mean, self.transform.std
        self.requires_grad_(False)
        self.eval()

    def __repr__(self) -> str:
        count = sum(weight.numel() for weight in self.parameters())
        sizes = f"{self.sizes.image_size} pixels, {self.sizes.embed_dim} dimensions, {count:,} parameters"
        return f"FrozenCLIP({self.name}, {sizes}, {self.device})"

    def train(self, mode: bool = True) -> "FrozenCLIP":
        """Stays in evaluation mode whatever the module around it does."""
        return super().train(False)

    def compile_vision(self) -> None:
        """Compiles the vision tower's blocks, which share their kernels, for what lies between the matrix products."""
        for block in self.visual.transformer.resblocks:
            block.compile(options=OPTIONS)

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    @functools.cached_property
    def sizes(self) -> CLIPSizes:
        image_size = self.visual.image_size
        return CLIPSizes(
            image_size=image_size[0] if isinstance(image_size, tuple) else image_size,
            image_tokens=self.visual.positional_embedding.shape[0],
            vision_width=self.visual.positional_embedding.shape[1],
            embed_dim=self.visual.output_dim,
            text_width=self.token_embedding.weight.shape[1],
            context_length=self.positional_embedding.shape[0],
            vocabulary=self.token_embedding.weight.shape[0],
        )

    @functools.cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names and values of all weights, whatever file held them."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def identity(self) -> CLIPIdentity:
        """What this CLIP is: two of the same identity give the same features."""
        quick = {isinstance(m, open_clip.transformer.QuickGELU) for m in self.modules() if "GELU" in type(m).__name__}
        sizes = self.sizes
        widths = (sizes.image_size, sizes.image_tokens, sizes.vision_width, sizes.embed_dim, sizes.text_width)
        activation = QUICK_GELU if quick == {True} else GELU
        return CLIPIdentity(self.weights_hash, activation, self.transform, sizes.context_length, widths in OPENAI_SIZES)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """One pass of the vision tower over prepared images [B, 3, H, W]; bytes (uint8) are normalised here first."""
        with torch.no_grad(), _whole_float32(self.device):
            images = images.to(self.device, non_blocking=True)
            if images.dtype == torch.uint8:
                images = normalised(images, self.image_mean, self.image_std)
            out = self.visual.forward_intermediates(images, indices=1, output_fmt="NLC", output_extra_tokens=True)
            tokens = torch.cat([out["image_intermediates_prefix"][0], out["image_intermediates"][0]], dim=1)
        return ImageFeatures(out["image_features"], tokens)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Embeddings [B, E], not normalised, of token ids [B, L]; a placeholder counts as an ordinary token."""
        with torch.no_grad():
            ids = self._trim(ids)
            words = self.token_embedding(ids.to(self.device, non_blocking=True))
            return self._text_tower(words, ids, _common_prefix(ids))

    def compose(self, ids: Tensor, pseudo_words: Tensor, places: Tensor | None = None) -> Tensor:
        """Embeddings [B, E], not normalised, of prompts whose placeholders are pseudo-word tokens.

        ids: [B, L] (or [1, L], one prompt for all rows) with at least one placeholder in each row.
        pseudo_words: [B, T], the row's word for all its placeholders, or [B, K, T], the k-th for the k-th placeholder.
        places: bool, like ids; where the placeholders are, by default wherever their id is.
        Raises ValueError if a row has no placeholder, or not K of them.
        """
        ids = self._trim(ids)
        is_placeholder = ids == PLACEHOLDER_ID if places is None else places[:, : ids.shape[1]]
        count = is_placeholder.sum(1)
        wanted = pseudo_words.shape[1] if pseudo_words.dim() == 3 else count.clamp(min=1)
        if not (count == wanted).all():
            given = tuple(pseudo_words.shape)
            raise ValueError(f"placeholders per prompt {count.tolist()}, pseudo-word tokens {given}")
        first = int(is_placeholder.any(dim=0).int().argmax())
        words = self.token_embedding(ids.to(self.device, non_blocking=True))
        is_placeholder = is_placeholder.to(self.device, non_blocking=True)
        if pseudo_words.dim() == 2:
            placed = pseudo_words[:, None]
        else:
            order = (is_placeholder.cumsum(1) - 1).clamp(min=0).expand(len(pseudo_words), -1)
            placed = pseudo_words.gather(1, order[..., None].expand(-1, -1, pseudo_words.shape[-1]))
        words = torch.where(is_placeholder[..., None], placed.to(words.dtype), words)
        return self._text_tower(words, ids.expand(len(words), -1), min(_common_prefix(ids), first))

    def _trim(self, ids: Tensor) -> Tensor:
        """The ids up to the batch's longest end token: the tower is causal, so what follows changes nothing.

        They stay where they are: what is asked of ids in the CPU's memory does not wait for a GPU.
        """
        if self.known_words is not None:
            self._check_known(ids, self.known_words)
        longest = int(ids.argmax(dim=1).max()) + 1
        return ids[:, :longest]

    def _text_tower(self, words: Tensor, ids: Tensor, common: int) -> Tensor:
        """common: positions at the beginning, before every end token, that are the same in all rows."""
        length = words.shape[1]
        x = words + self.positional_embedding[:length]
        mask = self.attn_mask[:length, :length]
        if common and len(x) > 1 and can_share_prefix(self.transformer):
            x = run_after_prefix(self.transformer, x[:1, :common], x[:, common:], mask)
        else:
            x, common = self.transformer(x, attn_mask=mask), 0
        # The end token has the highest id, so argmax finds it; normalising only its row is all that is read.
        ends = (ids.argmax(dim=1) - common).to(x.device, non_blocking=True)
        x = self.ln_final(x[torch.arange(len(x), device=x.device), ends])
        projection = self.text_projection
        return projection(x) if isinstance(projection, nn.Module) else x @ projection

    def _known_words(self) -> Tensor | None:
        """[vocabulary] mask of the words that have an embedding; None if all have.

        A weights file with a partial word table leaves NaN in the other rows.
        """
        weight = self.token_embedding.weight.data
        missing = weight.isnan().any(dim=1)
        weight[missing] = 0
        return ~missing if missing.any() else None

    def _check_known(self, ids: Tensor, known: Tensor) -> None:
        unknown = ids[~known.to(ids.device)[ids]].unique().tolist()
        if unknown := [i for i in unknown if i != 0]:  # padding after the end token is id 0 ("!") and is never read
            tokenizer = Tokenizer()
            words = ", ".join(repr(tokenizer.decode([i])) for i in unknown[:8])
            raise UserError(
                f"{self.name} does not know {words}: its small vocabulary covers the toy world only; "
                "texts of your own need a real CLIP, as OpenAI's ViT-B/32"
            )

    def _check_supported(self, model: Any, text: Any) -> None:
        parts = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
        visual, pool = model.visual, getattr(model, "text_pool_type", getattr(text, "pool_type", None))
        plain = all(getattr(text, part, None) is not None for part in (*parts, "attn_mask"))
        if not plain or pool != "argmax" or getattr(text, "cls_emb", None) is not None:
            raise UserError(f"{self.name}: needs CLIP's causal text tower; choose a model such as ViT-L-14")
        if len(text.token_embedding.weight) != VOCABULARY:
            raise UserError(f"{self.name}: needs CLIP's {VOCABULARY:,} byte pairs; choose a model such as ViT-L-14")
        if not isinstance(visual, open_clip.transformer.VisionTransformer) or visual.attn_pool is not None:
            raise UserError(f"{self.name}: needs CLIP's vision transformer; choose a model such as ViT-L-14")


@contextlib.contextmanager
def _whole_float32(device: torch.device) -> Iterator[None]:
    """The patches' convolution in float32 as the products are: cuDNN's would be in TF32."""
    if device.type != "cuda":
        yield
        return
    old: Any = torch.backends.cudnn
    new = getattr(old, "conv", None)  # a torch that has it raises where the old switch is read beside it
    holder, name = (new, "fp32_precision") if new else (old, "allow_tf32")
    before = getattr(holder, name)
    setattr(holder, name, "ieee" if new else False)
    try:
        yield
    finally:
        setattr(holder, name, before)


def _common_prefix(ids: Tensor) -> int:
    """Positions at the beginning that hold the same id in all rows, no end token among them."""
    same = (ids == ids[:1]).all(dim=0)
    return min(int(same.cumprod(0).sum()), int(ids.argmax(dim=1).min()))
