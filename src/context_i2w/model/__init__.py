"""Frozen CLIP, text with a placeholder, and the mapping networks."""
