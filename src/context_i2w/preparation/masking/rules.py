"""Masked captions: the object's name replaced by `<|replace|>`, the rest kept word for word.

The paper masks the object named in a caption but never released its script; we take the reading of its
closest sibling, the noun chunk that is the grammatical subject (policy `subject`, the default). A parser
finds the chunks, a policy picks what to mask, and neither knows of the other.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from context_i2w.preparation.masking.rule_words import CARRIERS

PLACEHOLDER = "<|replace|>"
_SPELLED = re.compile(r"<\|(replace)\|>", re.IGNORECASE)
_OF = re.compile(r"\s+of\s+((only|just)\s+)?", re.IGNORECASE)


class Span(NamedTuple):
    """Characters start:end of a caption."""

    start: int
    end: int


class Chunk(NamedTuple):
    """A noun chunk: the whole phrase, its head noun, and its nouns with compounds joined."""

    span: Span
    head: Span
    nouns: tuple[Span, ...]
    subject: bool = False


class Parser(Protocol):
    """Finds each caption's noun chunks, in order of place; pronouns are none. Summaries tell its name."""

    name: str

    def parse(self, captions: Iterable[str]) -> Iterator[list[Chunk]]: ...


class Tagged(NamedTuple):
    """A token, and whether it is a noun, an adjective or a determiner."""

    span: Span
    keyword: bool


class Tagger(Protocol):
    """Finds a caption's tokens and their kinds; named as a Parser is."""

    name: str

    def tag(self, captions: Iterable[str]) -> Iterator[list[Tagged]]: ...


class Masked(NamedTuple):
    """A masked caption and the phrases that were replaced (none: the caption had no object)."""

    caption: str
    phrases: tuple[str, ...]


def subject(caption: str, chunks: list[Chunk]) -> list[Span]:
    """The noun chunk that is the grammatical subject, else the first."""
    return [chunk.span for chunk in _object_chunk(caption, chunks)]


def head_noun(caption: str, chunks: list[Chunk]) -> list[Span]:
    """Only the head noun of that chunk; its articles, adjectives and compounds stay."""
    return [chunk.head for chunk in _object_chunk(caption, chunks)]


def all_nouns(caption: str, chunks: list[Chunk]) -> list[Span]:
    """Every noun, a compound as one, save carriers."""
    pairs = zip(chunks, [*chunks[1:], None])
    return [noun for chunk, after in pairs if not _carries(caption, chunk, after) for noun in chunk.nouns]


POLICIES: dict[str, Callable[[str, list[Chunk]], list[Span]]] = {
    "subject": subject,
    "all-nouns": all_nouns,
    "head-noun": head_noun,
}


def _object_chunk(caption: str, chunks: list[Chunk]) -> list[Chunk]:
    """The one chunk that names the object; none where there are no chunks."""
    place = next((i for i, chunk in enumerate(chunks) if chunk.subject), 0)
    while place + 1 < len(chunks) and _carries(caption, chunks[place], chunks[place + 1]):
        place += 1
    return chunks[place : place + 1]


def _carries(caption: str, chunk: Chunk, following: Chunk | None) -> bool:
    """Whether the chunk only carries the next one, as `a photo of` does."""
    if following is None or caption[slice(*chunk.head)].lower() not in CARRIERS:
        return False
    return _OF.fullmatch(caption, chunk.span.end, following.span.start) is not None


def mask(caption: str, spans: list[Span]) -> Masked:
    """The caption with each span replaced by the placeholder.

    A caption that itself spells the placeholder must not gain a mask by it: blanks are put inside its bars.
    """
    parts, end = [], 0
    for span in spans:
        parts.append(defuse(caption[end : span.start]))
        end = span.end
    parts.append(defuse(caption[end:]))
    return Masked(PLACEHOLDER.join(parts), tuple(caption[slice(*span)] for span in spans))


def defuse(text: str) -> str:
    """The text with `<|replace|>` written `<| replace |>`."""
    return _SPELLED.sub(r"<| \1 |>", text)


def mask_captions(captions: Iterable[str], parser: Parser, policy: str) -> Iterator[Masked]:
    """Each caption masked; parser and policy by what they are and what they are called."""
    choose = POLICIES[policy]
    captions = list(captions)
    for caption, chunks in zip(captions, parser.parse(captions), strict=True):
        yield mask(caption, choose(caption, chunks))
