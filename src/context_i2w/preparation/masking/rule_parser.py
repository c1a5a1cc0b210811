"""Noun chunks without a language model: word lists, endings and the neighbours.

Made for machines where no spaCy pipeline can be had, and good enough for the toy world. It knows no
grammar: it errs on words it has not listed (an unknown verb after a noun is taken for a noun), on verbs
that are also nouns ("waves", "walks") and on long sentences. `scripts/mask_captions.py --evaluate`
measures how often.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from context_i2w.preparation.masking import rule_words as words
from context_i2w.preparation.masking.rules import Chunk, Span, Tagged

_TOKEN = re.compile(r"[^\W_]+(?:[-.][^\W_]+)*|['’](?:s|m|re|ve|ll)\b|\S", re.IGNORECASE)

# Kinds of words, a letter each, so that a caption's kinds are a string.
DET, PRON, PREP, CONJ, AUX, ADV, NUM, ADJ, ING, ED, VERB, BASE, NOUN, POSS, OTHER = "drpcxa1jgevbnso"
# A chunk is an article, then adjectives, numbers and nouns, the last a noun or, as in "the public", an adjective.
_ARTICLE, _INSIDE = "d[da]*", "[1jns]|a(?=j)"
_CHUNK = re.compile(f"(?:{_ARTICLE})?(?:{_INSIDE})*n|{_ARTICLE}(?:{_INSIDE})*j(?!{_INSIDE})")

_LISTS = (
    (words.AUXILIARIES, AUX),
    (words.PREPOSITIONS, PREP),
    (words.DETERMINERS, DET),
    (words.PRONOUNS, PRON),
    (words.CONJUNCTIONS, CONJ),
    (words.ADVERBS, ADV),
    (words.NUMBERS, NUM),
    (words.ADJECTIVES, ADJ),
    (words.NOUNS_IN_ING_ED, NOUN),
    (words.FINITE_VERBS, VERB),
    (words.BASE_VERBS, BASE),
)


class RuleParser:
    """The dependency-free `Parser` and `Tagger`."""

    name = "rules"

    def parse(self, captions: Iterable[str]) -> Iterator[list[Chunk]]:
        return map(find_chunks, captions)

    def tag(self, captions: Iterable[str]) -> Iterator[list[Tagged]]:
        for caption in captions:
            matches, kinds = _tokens(caption)
            yield [Tagged(Span(*match.span()), kind in (DET, ADJ, NOUN)) for match, kind in zip(matches, kinds)]


def find_chunks(caption: str) -> list[Chunk]:
    """The noun chunks of one caption, the grammatical subject marked if a finite verb follows it."""
    tokens, kinds = _tokens(caption)
    runs = [found.span() for found in _CHUNK.finditer(kinds)]
    subject = _subject(kinds, runs)

    def span(begin: int, end: int) -> Span:
        return Span(tokens[begin].start(), tokens[end - 1].end())

    chunks = []
    for begin, end in runs:
        nouns = re.finditer(f"{NOUN}+", kinds[begin : end - 1] + NOUN)
        places = tuple(span(begin + noun.start(), begin + noun.end()) for noun in nouns)
        chunks.append(Chunk(span(begin, end), span(end - 1, end), places, (begin, end) == subject))
    return chunks


def _tokens(caption: str) -> tuple[list[re.Match], str]:
    """The tokens and their kinds."""
    matches = list(_TOKEN.finditer(caption))
    texts = [match[0].lower() for match in matches]
    return matches, "".join(_settle(texts, [_kind(text) for text in texts]))


@lru_cache(maxsize=200_000)
def _kind(word: str) -> str:
    """The kind of a word by itself."""
    for listed, kind in _LISTS:
        if word in listed:
            return kind
    if word[0] in "'’":
        return POSS if word[1:] == "s" else AUX
    if word.isdigit() or re.fullmatch(r"\d+(st|nd|rd|th|s)", word):
        return NUM
    if not word[0].isalnum():
        return OTHER
    if word.endswith("ing") and len(word) > 4:
        return ING
    if word.endswith("ed") and len(word) > 3:
        return ED
    if word.endswith("ly") and word not in words.NOT_ADVERBS_IN_LY:
        return ADV
    return ADJ if words.looks_adjective(word) else NOUN


def _settle(texts: list[str], kinds: list[str]) -> list[str]:
    """Kinds with fixed phrases made prepositions and ambiguous words decided by their neighbours, left to right."""
    for phrase in words.FIXED_PHRASES:
        for i in range(len(texts) - len(phrase) + 1):
            if tuple(texts[i : i + len(phrase)]) == phrase:
                kinds[i : i + len(phrase)] = [PREP] * len(phrase)
    for i, kind in enumerate(kinds):
        before = kinds[i - 1] if i else OTHER
        after = kinds[i + 1] if i + 1 < len(kinds) else OTHER
        if kind in (ING, ED):
            kinds[i] = _participle(kind, before, after)
        elif kind in (VERB, BASE):
            kinds[i] = _verb_or_noun(texts[i], kind, texts[i - 1] if i else "", before, after)
        elif kind == ADJ and before == NOUN and after in (OTHER, PREP, AUX) and not texts[i].endswith("ed"):
            kinds[i] = NOUN  # "a traffic light on"
        elif kind == NOUN and _is_unlisted_verb(texts[i], before, after):
            kinds[i] = VERB
        elif kind == DET and texts[i] in ("that", "which", "what") and before == NOUN:
            kinds[i] = CONJ
    return kinds


def _participle(kind: str, before: str, after: str) -> str:
    """`a parked car` has an adjective, `a car parked on`, `is parked` and `in parking it` a verb."""
    names = after in (NOUN, ADJ, ING, ED)
    if before in (DET, ADJ, POSS, NUM):
        return ADJ if names else NOUN if kind == ING else VERB
    if before in (OTHER, PREP, CONJ, VERB) and names:
        return ADJ
    if before == NOUN and kind == ED and after == NOUN:
        return ADJ
    return VERB


def _verb_or_noun(text: str, kind: str, previous: str, before: str, after: str) -> str:
    """A listed verb form is a noun after an article or adjective, and where no noun can be its subject."""
    if text.endswith("ed") and before == NOUN and after == NOUN:
        return ADJ  # "snow covered mountains"
    if text in words.NOUN_LIKE_FORMS:
        return VERB if before in (NOUN, PRON) and after in (DET, PRON) else NOUN
    if before in (DET, ADJ, POSS, NUM):
        if text.endswith("ed"):
            return ADJ if after in (NOUN, ADJ) else VERB
        return NOUN
    if kind == BASE:
        if before in (PRON, AUX) or previous == "to" or after in (DET, PRON):
            return VERB
        # "fans cheer during", but "a football match on"
        return VERB if before == NOUN and previous.endswith("s") and after in (PREP, ADV) else NOUN
    if before in (PREP, OTHER) and not text.endswith("ed"):
        return NOUN if after not in (DET, PRON) else VERB
    return ADJ if text.endswith("ed") and before in (PREP, OTHER, CONJ) and after in (NOUN, ADJ) else VERB


def _is_unlisted_verb(text: str, before: str, after: str) -> bool:
    """`actor greets the crowd`: a form in -s between a noun and an article."""
    return before == NOUN and after in (DET, PRON) and text.endswith("s") and not text.endswith("ss")


def _subject(kinds: str, runs: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The first chunk not led in by a preposition, if a finite verb comes after it."""
    first = next(((b, e) for b, e in runs if b == 0 or kinds[b - 1] not in (PREP, VERB, CONJ)), None)
    return first if first and {AUX, VERB} & set(kinds[first[1] :]) else None
