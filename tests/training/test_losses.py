"""The contrastive loss against its definition."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from context_i2w.training.objective import contrastive_loss


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 6), width=st.integers(1, 8), scale=st.floats(-1, 5), seed=st.integers(0, 99))
def test_equals_the_definition(batch, width, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, batch, width, generator=generator, dtype=torch.double)
    total = 0.0
    cosine = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    logits = cosine * torch.tensor(scale).exp()
    for i in range(batch):
        total -= logits[i, i] - logits[i].logsumexp(0)
        total -= logits[i, i] - logits[:, i].logsumexp(0)
    found = contrastive_loss(images, texts, torch.tensor(scale))
    assert torch.allclose(found.double(), total / (2 * batch), atol=1e-4, rtol=1e-4)


def test_is_computed_in_float32():
    half = torch.randn(2, 4, 8).bfloat16()
    assert contrastive_loss(half[0], half[1], torch.tensor(2.0)).dtype == torch.float32
