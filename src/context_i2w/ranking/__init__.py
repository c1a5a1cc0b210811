"""Exact ranking in bounded memory, and the metrics."""
