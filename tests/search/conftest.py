"""What the tests of the search share."""

import pytest
import torch


@pytest.fixture(scope="module")
def retriever(golden_clip):
    """A small Context-I2W over the golden CLIP."""
    from tests.search.test_retriever import SMALL

    from context_i2w import Retriever
    from context_i2w.model.mappers import ContextI2W

    torch.manual_seed(0)
    return Retriever(golden_clip, ContextI2W(golden_clip.sizes, SMALL))
