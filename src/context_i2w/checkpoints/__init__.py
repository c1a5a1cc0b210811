"""Checkpoint files: ours, the published ones, shared folders, and where they are found."""
