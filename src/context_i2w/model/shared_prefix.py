"""A causal transformer over sequences with a common beginning: the beginning runs once for the whole batch.

What stands at a position does not depend on what follows, so the keys and values of a common prefix are the same in
every row. For `a photo of <|replace|>` four of six positions are: the composed prompts of a batch cost a third.

Shapes: B batch, P positions of the prefix, S positions after it, T width, H heads, D width of a head.
"""

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor

KeyValue = tuple[Tensor, Tensor]  # [B, H, positions, D] each, of one layer


def can_share_prefix(transformer: Transformer) -> bool:
    """Whether all blocks are CLIP's own; open_clip's other kinds run every position in every row."""
    return all(
        type(block) is ResidualAttentionBlock and block.attn.in_proj_weight is not None and block.attn.batch_first
        for block in transformer.resblocks
    )


def run_after_prefix(transformer: Transformer, prefix: Tensor, rest: Tensor, mask: Tensor) -> Tensor:
    """What `transformer` gives at the positions after the prefix: prefix [1, P, T], rest [B, S, T] -> [B, S, T].

    mask: [P + S, P + S], added to the attention's scores. No gradient reaches the prefix.
    """
    length = prefix.shape[1]
    seen: list[KeyValue] = []
    with torch.no_grad():
        for block in transformer.resblocks:
            prefix, key_value = _run_block(block, prefix, None, mask[:length, :length])
            seen.append(key_value)
    for block, before in zip(transformer.resblocks, seen, strict=True):
        rest, _ = _run_block(block, rest, before, mask[length:])
    return rest


def _run_block(
    block: ResidualAttentionBlock, x: Tensor, before: KeyValue | None, mask: Tensor
) -> tuple[Tensor, KeyValue]:
    """One block at the positions of x, which see the keys and values of the positions before; and their own."""
    attention = block.attn
    projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if before is not None:
        key, value = (torch.cat([b.expand(len(x), -1, -1, -1), a], dim=2) for b, a in zip(before, (key, value)))
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype))
    x = x + block.ls_1(attention.out_proj(seen.transpose(1, 2).flatten(2)))
    return x + block.ls_2(block.mlp(block.ln_2(x))), (key, value)
