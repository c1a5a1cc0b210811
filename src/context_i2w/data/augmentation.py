"""Training images as CLIP sees them: the published augmentation, and corrupted views of the reference image.

Its options stand beside their use, so torch is imported where it is used: `--help` reads the options.
"""

from __future__ import annotations

import functools
import math
import random
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from context_i2w.command_line import OptionError, Options, option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from context_i2w.model.images import Picture, Preparation

# Those that turned hues or grey contradict.
COLOUR = re.compile(
    r"\b(red|orange|yellow|green|blue|purple|pink|brown|violet|turquoise|teal|gold|golden|beige|crimson|scarlet)\b",
    re.I,
)
PUBLISHED_SCALE = (0.9, 1.0)  # share of the image's area that the random resized crop keeps
RATIO = (3 / 4, 4 / 3)  # width to height of crops
TRIES = 10  # at a crop that fits


@dataclass(frozen=True)
class ViewOptions(Options):
    """What the mapper sees of a training image, beyond the paper.

    By default the very image that the composed text is to match. Otherwise a view that lacks or contradicts a part of
    it, so that only the masked caption can tell that part.
    """

    crop: float = option(
        0.0, "the mapper sees a crop of at least this share of the image, while the text is to match the whole; 0: off",
        flag="view-crop", metavar="SHARE", at_least=0, at_most=1,
    )  # fmt: skip
    colour: float = option(
        0.0, "this share of images is shown to the mapper grey or with turned hues; 0: off",
        flag="view-colour", metavar="SHARE", at_least=0, at_most=1,
    )  # fmt: skip
    # so that what the caption leaves out is right
    told: bool = option(False, "--view-colour only where the caption names a colour", flag="view-told")

    def __post_init__(self):
        super().__post_init__()
        if self.told and not self.colour:
            raise OptionError("told", self.told, "it says where colours change; give --view-colour SHARE too")

    @property
    def differs(self) -> bool:
        """Whether the view is not the target itself."""
        return self.crop > 0 or self.colour > 0


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
        from context_i2w.data.broken import BrokenPair, image_kind
        from context_i2w.model.images import BrokenImage, ImageSource, as_bytes

        try:
            image = self.preparation.open(name, content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # palettes with transparency: dropping it is the published way
                if self.crop:
                    target = self._crop(image, drawn, PUBLISHED_SCALE)
                else:
                    target = self.preparation.square(image, ImageSource(name))
                seen = [self._view(image, target, f"{drawn}-view", caption)] if self.view.differs else []
                return [as_bytes(part) for part in (*seen, target)]
        except BrokenImage as error:
            raise BrokenPair(name, image_kind(error)) from None
        except (ValueError, OSError, MemoryError):
            raise BrokenPair(name, "image of a kind that can't be resized") from None

    def _view(self, image: Picture, target: Picture, drawn: str, caption: str) -> Picture:
        if self.view.crop:
            target = self._crop(image, drawn, (self.view.crop, 1.0))
        choice = random.Random(f"{drawn}-colour")
        if choice.random() >= self.view.colour or (self.view.told and not COLOUR.search(caption)):
            return target
        from torchvision.transforms.functional import adjust_hue, rgb_to_grayscale

        from context_i2w.model.images import as_image

        target = as_image(target).convert("RGB")
        if choice.random() < 0.5:
            return rgb_to_grayscale(target, 3)
        return adjust_hue(target, choice.uniform(-0.5, 0.5))

    def _crop(self, image: Picture, drawn: str, scale: tuple[float, float]) -> Picture:
        import torch

        random_numbers = torch.Generator().manual_seed(random.Random(drawn).getrandbits(62))
        height, width = image.shape[1:] if isinstance(image, torch.Tensor) else image.size[::-1]
        return self.preparation.resized_part(image, crop_box(height, width, scale, random_numbers))


def crop_box(
    height: int, width: int, scale: tuple[float, float], random_numbers: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part: `scale` of the area, sides from 3 : 4 to 4 : 3.

    torchvision's RandomResizedCrop.get_params to the number, but without the process's own random numbers, which are
    slow to put aside. All tries are drawn at once: most parts of a photograph don't fit, and torch's calls
    cost more than numbers do. random_numbers: freshly seeded, nothing drawn yet.
    """
    import torch

    least, more = _uniform(scale)
    tries = torch.rand(TRIES, 2, generator=random_numbers).double().mul_(more).add_(least).float()
    tries[:, 1].exp_()
    for number, (share, aspect) in enumerate(tries.tolist()):
        area = height * width * share
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            torch.rand(2 * number + 2, generator=random_numbers.manual_seed(random_numbers.initial_seed()))
            top, left = (int(torch.randint(0, n + 1, (1,), generator=random_numbers)) for n in (height - h, width - w))
            return top, left, h, w
    w, h = width, height  # the largest part in the middle whose sides fit
    if width / height < RATIO[0]:
        h = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(height * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


@functools.cache
def _uniform(scale: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The least share and logarithm of the aspect ratio, and how much more may be drawn, as torchvision rounds them."""
    import torch

    ends = torch.stack([torch.tensor(scale), torch.tensor(RATIO).log()])
    return ends[:, 0].double(), (ends[:, 1] - ends[:, 0]).double()
