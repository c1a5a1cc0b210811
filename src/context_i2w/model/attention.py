"""Where Context-I2W looks: maps over the patches of a reference image, for one description.

Shapes: B batch, P patches (row by row from the top left), Q queries of the Visual Target Extractor.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from context_i2w.model.clip import ImageFeatures
from context_i2w.model.mappers import LAYER_NORM_EPS, ContextI2W, ExtractorBlock


class AttentionMaps(NamedTuple):
    """strength [B, P]: how much of a patch token the Intent View Selector passes on, ‖z_p‖ / ‖x_p‖ with x the token
    before and z the token after the rotation into the description's view.

    queries [B, Q, P]: each extractor query's attention over the patches, mean over layers and heads, sum 1.
    on_patches [B, Q]: share of a query's attention that goes to patches; the rest goes to the queries themselves.
    """

    strength: Tensor
    queries: Tensor
    on_patches: Tensor


def attention_maps(mapper: ContextI2W, condition: Tensor, image: ImageFeatures) -> AttentionMaps:
    """The maps for conditions [B, E] and the features of B images; Q is 0 for a mapper without a local branch."""
    with torch.no_grad():
        rotated = mapper.rotate(condition, image)[:, 1:]
        strength = rotated.norm(dim=-1) / image.tokens[:, 1:].norm(dim=-1)
        if not mapper.options.local_branch:
            return AttentionMaps(strength, strength[:, None][:, :0], strength[:, :0])
        standardised = F.layer_norm(rotated, rotated.shape[-1:], eps=LAYER_NORM_EPS)
        queries = mapper.extractor.queries.expand(len(rotated), -1, -1)
        layers = []
        for block in mapper.extractor.blocks:
            assert isinstance(block, ExtractorBlock)
            weights = block.attention(block.query_norm(queries), standardised)  # [B, Q, H, P + Q]
            layers.append(weights[..., : rotated.shape[1]].mean(dim=2))
            queries = block(queries, standardised)
        attention = torch.stack(layers).mean(dim=0)
        on_patches = attention.sum(dim=-1)
    return AttentionMaps(strength, attention / on_patches[..., None], on_patches)
