"""Context-I2W: images mapped to context-dependent pseudo-words for zero-shot composed image retrieval."""

__version__ = "0.1.0"
