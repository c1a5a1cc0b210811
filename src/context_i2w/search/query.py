"""What a user types, as a prompt for CLIP and the references that its placeholders stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from context_i2w.errors import UserError
from context_i2w.files import shown
from context_i2w.model.prompts import MARK, PLACEHOLDER_ID, Tokenizer, fill, numbered_template, template
from context_i2w.model.queries import IMAGE_ALONE, parse_method
from context_i2w.search.pictures import Picture

References = Picture | Sequence[Picture]
PAPER_TEMPLATE = "a photo of [*] , {description}"


@dataclass(frozen=True)
class Query:
    """What a description beside reference images means."""

    text: str  # the prompt, its placeholders as MARK
    words: tuple[int, ...]  # which reference (from 0) each placeholder stands for
    plain: str  # the description without placeholders


def parse_query(description: str, references: int) -> Query:
    """The query meant by a description beside so many reference images.

    `[*]` is the reference; of several, `[*1]` is the first. A description without either becomes the paper's
    `a photo of [*] , {description}`. Raises UserError if placeholders and references do not match.
    """
    marked, numbers = numbered_template(description)
    if not numbers:
        if references != 1:
            raise UserError(f"{description!r}: {references} references, so write where they go: [*1], [*2]")
        plain = description.strip()
        text = fill(PAPER_TEMPLATE, description=plain) if plain else template(IMAGE_ALONE)
        return Query(text, (0,), plain)
    if None in numbers and (references != 1 or any(numbers)):
        raise UserError(f"{description!r}: with several references number every placeholder: [*1], [*2]")
    words = tuple((number or 1) - 1 if number != 0 else -1 for number in numbers)
    if set(words) != set(range(references)):
        asked = ", ".join(f"[*{number}]" for number in sorted({word + 1 for word in words}))
        raise UserError(f"{description!r} asks for {asked}, but there are {references} references")
    return Query(marked, words, " ".join(marked.replace(MARK, " ").split()))


def parse_text(description: str) -> Query:
    """A query of text alone, as CLIP reads it. Raises UserError for a placeholder or an empty description."""
    marked, numbers = numbered_template(description)
    if numbers:
        raise UserError(f"{description!r}: no reference image for [*] to stand for; choose one, or leave [*] out")
    if not marked.strip():
        raise UserError("nothing to search for: choose a reference image, write a description, or both")
    return Query(marked.strip(), (), marked.strip())


def check_length(query: Query, tokenizer: Tokenizer) -> None:
    """Raises UserError if a placeholder lies beyond what CLIP's text tower reads."""
    ids = tokenizer([query.text])[0]
    if int((ids == PLACEHOLDER_ID).sum()) != len(query.words):
        read = f"CLIP reads {tokenizer.context_length - 2} word pieces"
        raise UserError(f"the description is too long: {read} and a placeholder comes later; put it earlier")


def as_queries(
    reference: References | Sequence[References], description: str | Sequence[str]
) -> tuple[list[list[Picture]], list[str]]:
    """The references of each query, and the descriptions, as `Index.search` takes them; UserError for anything else."""
    texts = as_texts(description)
    if isinstance(description, str):
        return [as_pictures(reference)], texts
    if not isinstance(reference, list | tuple):
        return [as_pictures(reference)] * len(texts), texts
    if len(reference) != len(texts):
        given = f"{len(texts)} descriptions and {len(reference)} references"
        raise UserError(f"{given}: give one reference, or one for each")
    return [as_pictures(entry) for entry in reference], texts


def as_texts(description: str | Sequence[str]) -> list[str]:
    """Raises UserError for what is neither a string nor a list of them."""
    if isinstance(description, str):
        return [description]
    if not isinstance(description, list | tuple) or not all(isinstance(text, str) for text in description):
        raise UserError(f"{shown(repr(description))}: a description is expected, or a list of them")
    return list(description)


def as_pictures(reference: Any) -> list[Picture]:
    """Raises UserError for what is neither a path, a PIL image nor a list of them."""
    pictures: list[Any] = list(reference) if isinstance(reference, list | tuple) else [reference]
    for picture in pictures:
        if not isinstance(picture, Picture):
            kind = f"{type(picture).__module__}.{type(picture).__name__}"
            remedy = "Image.fromarray makes one of a NumPy array" if isinstance(picture, np.ndarray) else "not None"
            raise UserError(f"a reference is a file's path or a PIL image, not a {kind}; {remedy}")
    return pictures


def check_alone(methods: Sequence[str], given: str) -> None:
    """Raises UserError unless the methods need nothing but what is given, "image" or "text"."""
    for method in methods:
        if parse_method(method).needs != {given}:
            raise UserError(f"{method}: a query needs images and texts; {given}s alone have rows of method {given!r}")
