"""Training images as CLIP sees them: the published augmentation, and corrupted views of the reference image."""

import random
import re
import warnings
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from context_i2w.data.broken import BrokenPair, image_kind
from context_i2w.data.options import ViewOptions
from context_i2w.data.random_crops import Chances, chances, crop_box
from context_i2w.model.images import BrokenImage, ImageSource, Picture, Preparation, as_bytes, as_image

# Those that turned hues or grey contradict.
COLOUR = re.compile(
    r"\b(red|orange|yellow|green|blue|purple|pink|brown|violet|turquoise|teal|gold|golden|beige|crimson|scarlet)\b",
    re.I,
)
PUBLISHED_SCALE = (0.9, 1.0)  # share of the image's area that the random resized crop keeps


class Draw(NamedTuple):
    """All that is random of one training image. target, view: of their crops, where there are any."""

    drawn: str
    target: Chances | None
    view: Chances | None


class TrainPreparation:
    """A training image as bytes [3, S, S]; before it the reference view, where that differs from the target.

    crop: under the published augmentation, a random resized crop, scale 0.9–1.0, bicubic; else as at evaluation. All
    random choices depend on the words they are `drawn` from alone (seed, epoch, row), so neither workers nor resuming
    change them.
    """

    def __init__(self, preparation: Preparation, crop: bool, view: ViewOptions | None = None):
        self.preparation, self.crop, self.view = preparation, crop, view or ViewOptions()

    def __call__(self, name: str, drawn: str, content: bytes | None = None, caption: str = "") -> list[Tensor]:
        """name: the file, or what to call the `content` of one; caption: the masked one. Raises BrokenPair."""
        return self.prepare(name, self.draw([drawn])[0], content, caption)

    def draw(self, drawn: Sequence[str]) -> list[Draw]:
        """For the images of a batch: what `prepare` asks for, drawn from words."""
        none: Iterable[None] = repeat(None)
        targets = self._chances(drawn, PUBLISHED_SCALE) if self.crop else none
        views = self._chances([f"{w}-view" for w in drawn], (self.view.crop, 1.0)) if self.view.crop else none
        return list(map(Draw, drawn, targets, views))

    def prepare(self, name: str, draw: Draw, content: bytes | None, caption: str) -> list[Tensor]:
        """As a call, with what has been drawn for the image."""
        try:
            image = self.preparation.open(name, content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # palettes with transparency: dropping it is the published way
                if draw.target:
                    target = self._crop(image, draw.target)
                else:
                    target = self.preparation.square(image, ImageSource(name))
                seen = [self._view(image, target, draw, caption)] if self.view.differs else []
                return [as_bytes(part) for part in (*seen, target)]
        except BrokenImage as error:
            raise BrokenPair(name, image_kind(error)) from None
        except (ValueError, OSError, MemoryError):
            raise BrokenPair(name, "image of a kind that can't be resized") from None

    def _view(self, image: Picture, target: Picture, draw: Draw, caption: str) -> Picture:
        if draw.view:
            target = self._crop(image, draw.view)
        choice = random.Random(f"{draw.drawn}-view-colour")
        if choice.random() >= self.view.colour or (self.view.told and not COLOUR.search(caption)):
            return target
        from torchvision.transforms.functional import adjust_hue, rgb_to_grayscale

        target = as_image(target).convert("RGB")
        if choice.random() < 0.5:
            return rgb_to_grayscale(target, 3)
        return adjust_hue(target, choice.uniform(-0.5, 0.5))

    def _chances(self, drawn: Sequence[str], scale: tuple[float, float]) -> list[Chances]:
        return chances([random.Random(words).getrandbits(62) for words in drawn], scale)

    def _crop(self, image: Picture, own: Chances) -> Picture:
        height, width = image.size[::-1] if isinstance(image, Image.Image) else image.shape[1:]
        return self.preparation.resized_part(image, crop_box(height, width, own))
