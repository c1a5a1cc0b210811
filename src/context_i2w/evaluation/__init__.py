"""A benchmark evaluated: features, queries, rankings, report."""
