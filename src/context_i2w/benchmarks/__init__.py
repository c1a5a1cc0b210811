"""The benchmarks: one file each, and what they hand to the evaluation."""

from context_i2w.benchmarks.options import BENCHMARKS, Kind, find_benchmark

__all__ = ["BENCHMARKS", "Kind", "find_benchmark"]
