"""The four composed-retrieval benchmarks of the toy world, in the file formats of the real ones."""
