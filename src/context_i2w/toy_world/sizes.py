"""How much of the toy world is drawn."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Counts for the lists of pairs, and for each of the two copies (dev, test) of every benchmark."""

    training_pairs: int = 8000
    validation_pairs: int = 500
    cirr_sets: int = 200  # image sets of six: five queries each, and two more images in the gallery
    fashion_queries: int = 340  # for each garment
    fashion_gallery: int = 420  # for each garment; at most 448
    imagenet_queries: int = 1000
    imagenet_renditions: int = 12  # for each kind and domain, on average
    coco_images: int = 1000

    @classmethod
    def mini(cls) -> "Sizes":
        """A world for tests, drawn in about a second."""
        return cls(48, 16, 4, 12, 40, 28, 2, 16)
