"""Training pairs: images with captions whose object name is masked."""
