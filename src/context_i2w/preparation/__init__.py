"""From the original downloads to the files that training and evaluation read; needs no torch."""
