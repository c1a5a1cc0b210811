"""The words of the toy world: what a picture may hold and how it is named."""

from context_i2w.benchmarks.imagenet_lists import DOMAINS as IMAGENET_R

OBJECTS = ("house", "tree", "car", "boat", "fish", "star", "heart", "moon", "cup", "mushroom", "umbrella")
GARMENTS = ("dress", "shirt", "top")
KINDS = OBJECTS + GARMENTS
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
PATTERNS = ("plain", "striped", "dotted", "checked")
LENGTHS = ("short", "long")  # garments only
PLACES = ("grass", "sand", "sea", "snow", "night", "brick")
WHITE = "white"  # the plain background that a masked crop has
BACKGROUNDS = (*PLACES, WHITE)
REAL = "real"
CONVERTED = IMAGENET_R  # all that a description can ask for
DOMAINS = (REAL, *CONVERTED)

WHERE = {place: f"on {place}" for place in BACKGROUNDS} | {"sea": "at sea", "snow": "in snow", "night": "at night"}
# Folder names in the manner of ImageNet's; no real synset has these numbers.
WNIDS = {kind: f"n{90000001 + 7 * number:08d}" for number, kind in enumerate(KINDS)}


def with_article(phrase: str) -> str:
    """`a car`, `an orange car`."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def describe(colour: str | None, pattern: str | None, length: str | None, noun: str) -> str:
    """Adjectives before the noun, e.g. `long red striped dress`."""
    return " ".join(word for word in (length, colour, pattern, noun) if word)
