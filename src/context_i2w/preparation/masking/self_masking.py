"""Captions that mask themselves (LinCIR, arXiv 2312.01998): every run of nouns, adjectives and determiners.

"lincir" is what its code does, word for word: a run is searched for as a text and replaced wherever that text stands,
inside longer words too; where it isn't found, a word drawn at random is replaced, which may be the empty one between
two blanks. "offsets" masks the runs where they stand, and draws a whole word.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from context_i2w.errors import UserError
from context_i2w.model.prompts import MARK, PLACEHOLDER_ID, Tokenizer, as_text, mark_placeholders, template
from context_i2w.model.prompts import clean as clip_clean
from context_i2w.preparation.masking.rule_parser import RuleParser
from context_i2w.preparation.masking.rules import Span, Tagged, Tagger, mask

MASKINGS = ("offsets", "lincir")
PARSERS = ("auto", "spacy", "rules")
MASK = "[$]"  # LinCIR's; no `$` is left in a caption that it cleaned
_RESPACED = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")
Draw = Callable[[Sequence], Any]


class SelfMasker:
    """Token ids of captions and of their masked forms. `name` says masking and parser, for checkpoints."""

    def __init__(self, masking: str, parser: str, context_length: int):
        self.tagger, self.parity = make_tagger(parser), masking == "lincir"
        self.name = f"masked by {masking} with {self.tagger.name}"
        self.tokenizer = (LinCIRTokenizer if self.parity else Tokenizer)(context_length)
        self.prompt = self.tokenizer([template("a photo of [*]")])

    def __call__(self, captions: Sequence[str], drawn: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [B, L] of the captions, and of the masked ones with a placeholder at least; drawn: seeds of the words."""
        cleaned = [self.clean(caption) for caption in captions]
        tagged = zip(cleaned, self.tagger.tag(cleaned), drawn, strict=True)
        masked = self.tokenizer([self.mask(text, tokens, random.Random(seed).choice) for text, tokens, seed in tagged])
        has_place = (masked == PLACEHOLDER_ID).any(dim=1, keepdim=True)  # it may have been cut off
        return self.tokenizer(cleaned), torch.where(has_place, masked, self.prompt)

    def clean(self, caption: str | None) -> str:
        if self.parity:
            return shortened(clean(caption), self.tokenizer)
        return as_text(clip_clean(clean(caption)))

    def mask(self, caption: str, tokens: Sequence[Tagged], draw: Draw) -> str:
        if self.parity:
            return replaced(caption, joined(caption, tokens), draw).replace(MASK, MARK)
        return mark_placeholders(mask(caption, runs(tokens) or _word(caption, draw)).caption)


class LinCIRTokenizer(Tokenizer):
    """Its tokeniser has `!` for padding: id 0 wherever it stands."""

    def encode(self, text: str) -> list[int]:
        first, *others = [super(LinCIRTokenizer, self).encode(part) for part in text.split("!")]
        return first + [i for part in others for i in (0, *part)]


def make_tagger(parser: str) -> Tagger:
    """By name; auto: spaCy if it and its English pipeline are installed, else the rules. Raises UserError."""
    from context_i2w.preparation.masking.spacy_parser import SpacyTagger

    if parser == "rules":
        return RuleParser()
    try:
        return SpacyTagger()
    except UserError:
        if parser == "spacy":
            raise
        return RuleParser()


def clean(caption: str | None) -> str:
    """A person's name is `person`; lower case; no `$`; no blanks at the ends."""
    return as_text((caption or "").replace("<PERSON>", "person").lower().replace("$", "").strip())


def shortened(caption: str, tokenizer: Tokenizer) -> str:
    """A caption of more tokens than fit, as LinCIR has it: the text that they decode to, its punctuation joined."""
    ids = Tokenizer.encode(tokenizer, caption)
    if len(ids) + 2 <= tokenizer.context_length:
        return caption
    text = tokenizer.decode(ids[: tokenizer.context_length - 2])
    for mark in _RESPACED:
        text = text.replace(mark, mark[1:])
    return text.replace(" ' ", "'")


def _runs(tokens: Iterable[Tagged]) -> list[list[Span]]:
    """The longest runs of keywords."""
    every = itertools.groupby(tokens, lambda token: token.keyword)
    return [[token.span for token in run] for keyword, run in every if keyword]


def runs(tokens: Iterable[Tagged]) -> list[Span]:
    """From the first to the last character of each longest run of keywords."""
    return [Span(run[0].start, run[-1].end) for run in _runs(tokens)]


def joined(caption: str, tokens: Iterable[Tagged]) -> list[str]:
    """The same runs as texts, one blank between tokens."""
    return [" ".join(caption[slice(*span)] for span in run) for run in _runs(tokens)]


def replaced(caption: str, runs: Sequence[str], draw: Draw) -> str:
    """LinCIR's masked caption: all places of each run, up to the first that doesn't occur as it was joined."""
    working = caption
    listed: Sequence[str | None] = runs or [None]
    for run in listed:
        if run is None or run not in caption:
            return working.replace(draw(caption.split(" ")), MASK)
        working = working.replace(run, MASK)
    return working


def _word(caption: str, draw: Draw) -> list[Span]:
    words = [Span(*found.span()) for found in re.finditer(r"\S+", caption)]
    return [draw(words)] if words else []
