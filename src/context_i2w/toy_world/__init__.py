"""A small drawn world: training pairs and the four benchmarks in their genuine formats, made on demand."""

from context_i2w.toy_world.sizes import Sizes
from context_i2w.toy_world.world import make_toy_world

__all__ = ["Sizes", "make_toy_world"]
