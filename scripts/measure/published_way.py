"""The published computation, written as plainly as possible: what the fast code is compared with.

No command of its own: `scripts/measure/benchmark.py` measures it beside ours, and the tests show that both give the
same numbers. It keeps the published habits that cost time: the vision tower runs twice on each image, texts fill all
positions, the text tower's weights gather gradients, every image token is projected to keys and values in every layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.mappers import ContextI2W, ExtractorBlock, VisualTargetExtractor
from context_i2w.model.prompts import PLACEHOLDER_ID
from context_i2w.training.objective import contrastive_loss


def plain_attention(block: ExtractorBlock, queries: Tensor, patches: Tensor) -> Tensor:
    """Attention of one extractor layer with keys and values of every token written out: [B, Q, V]."""
    media = block.token_norm(patches)
    latents = block.query_norm(queries)
    query = block.to_query(latents)
    key, value = block.to_key_value(torch.cat([media, latents], dim=1)).chunk(2, dim=-1)
    query, key, value = (x.unflatten(-1, (block.heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = (query * block.scale @ key.mT).softmax(dim=-1)
    return block.to_output((weights @ value).transpose(1, 2).flatten(2))


def plain_extractor(extractor: VisualTargetExtractor, patches: Tensor) -> Tensor:
    """The Visual Target Extractor: normalised queries [B, Q, V]."""
    queries = extractor.queries.expand(len(patches), -1, -1)
    for block in extractor.blocks:
        queries = queries + plain_attention(block, queries, patches)
        queries = queries + block.feed_out(F.gelu(block.feed_in(block.feed_norm(queries))))
    return extractor.final_norm(queries)


def plain_mapper(mapper: ContextI2W, condition: Tensor, image: ImageFeatures) -> Tensor:
    """Context-I2W: pseudo-word tokens [B, T]."""
    selector = mapper.selector
    rotation = selector.magnitude * selector.direction / selector.direction.norm(dim=1, keepdim=True)
    rotated = (image.tokens @ rotation.T) * selector.condition(condition)[:, None]
    local = plain_extractor(mapper.extractor, rotated[:, 1:]).mean(dim=1)
    return mapper.global_head(rotated[:, 0]) + torch.tanh(mapper.gate) * mapper.local_head(local)


def plain_text(clip: FrozenCLIP, ids: Tensor, pseudo_words: Tensor | None = None) -> Tensor:
    """The text tower at all positions, [B, E], with pseudo-words at the placeholders if they are given."""
    words = clip.token_embedding(ids)
    if pseudo_words is not None:
        words = torch.where((ids == PLACEHOLDER_ID)[..., None], pseudo_words[:, None], words)
    x = clip.ln_final(clip.transformer(words + clip.positional_embedding, attn_mask=clip.attn_mask))
    return x[torch.arange(len(x)), ids.argmax(dim=1)] @ clip.text_projection


def plain_step(
    clip: FrozenCLIP, mapper: ContextI2W, images: Tensor, condition_ids: Tensor, prompt_ids: Tensor
) -> Tensor:
    """Loss of one training step, forward and backward, as published.

    clip: with its weights requiring gradients, as they do in the published code by omission.
    """
    with torch.no_grad():
        embedding = clip.visual(images)
        tokens = clip.visual.transformer(clip.visual._embeds(images))  # the second pass
        condition = plain_text(clip, condition_ids)
    words = plain_mapper(mapper, condition, ImageFeatures(embedding, tokens))
    text = plain_text(clip, prompt_ids.expand(len(words), -1), words)
    loss = contrastive_loss(embedding, text, clip.logit_scale)
    loss.backward()
    return loss.detach()
