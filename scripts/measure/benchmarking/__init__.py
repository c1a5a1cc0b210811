"""What scripts/measure/benchmark.py measures."""
