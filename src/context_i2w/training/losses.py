"""The training loss."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch, the i-th text belonging to the i-th image.

    images, texts: [B, E], of any length; logit_scale: the factor's logarithm (CLIP's own parameter).
    Mean of the two cross-entropies of exp(s)·I·Tᵀ and its transpose, I and T unit length; computed in float32.
    Source: paper, training objective (its equation is CLIP's loss with the composed text as T).
    """
    images = F.normalize(images.float(), dim=-1)
    texts = F.normalize(texts.float(), dim=-1)
    logits = logit_scale.float().exp() * images @ texts.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
