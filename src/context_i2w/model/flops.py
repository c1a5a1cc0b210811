"""Counted work: floating-point operations of the matrix products of whatever runs; a multiply-add counts two."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from context_i2w.model.backbones import CLIPSizes
from context_i2w.model.clip import ImageFeatures
from context_i2w.model.mappers import Mapper


def counted(compute: Callable[[], Any]) -> int:
    """What torch counts while `compute` runs, fused kernels that it does not see being off."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            compute()
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return counter.get_total_flops()


def counted_forward(mapper: Mapper, sizes: CLIPSizes) -> int:
    """Any mapper's forward pass for one image."""
    embedding = torch.zeros(1, sizes.embed_dim)
    image = ImageFeatures(embedding, torch.zeros(1, sizes.image_tokens, sizes.vision_width))
    return counted(lambda: mapper(embedding, image))
