"""From the original downloads to the files that training and the benchmarks read; needs neither torch nor CLIP."""
