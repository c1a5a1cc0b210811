"""What makes a training pair unusable, by kinds that can be counted."""

from context_i2w.model.images import BrokenImage


class BrokenPair(Exception):
    """A pair that training leaves out: its name, and the kind of fault as it is counted."""

    def __init__(self, name: str, kind: str):
        super().__init__(name, kind)
        self.name, self.kind = name, kind


def check_caption(name: str, caption: str) -> str:
    """The caption. Raises BrokenPair if it is empty, or was not UTF-8 when it was read with replacement."""
    if "\ufffd" in caption:
        raise BrokenPair(name, "caption is not UTF-8")
    if not caption.strip():
        raise BrokenPair(name, "empty caption")
    return caption


def image_kind(error: BrokenImage) -> str:
    """The kind of a broken image: its reason without the numbers of the single file."""
    if "pixels" in error.reason:
        return "image over the pixel bound"
    if "truncated" in error.reason:
        return "truncated image"
    return error.reason.partition(" (")[0]
