"""Text for CLIP: templates, the placeholder of the pseudo-word token, tokenisation.

A *template* is written by us or by the user and may hold the placeholder, spelled `[*]` or `<|replace|>`; with several
reference images their placeholders are numbered, `[*1]` and `[*2]`.
A *caption* comes from a data file and is only ever text: one that spells a special token does not become one.
To keep the two apart, a placeholder travels through strings as `MARK`, which captions cannot contain.
"""

import html
import itertools
import string
from collections.abc import Collection, Sequence

import ftfy
import numpy as np
import open_clip.tokenizer
import regex
import torch
from torch import Tensor

PLACEHOLDER = "<|replace|>"
PLACEHOLDER_ID = 49405
START_ID = 49406
END_ID = 49407
CONTEXT_LENGTH = 77

_PRIVATE = "\ue000"
# Holds a "<" as the published spelling does: ftfy decodes entities only in texts without one.
MARK = f"<|{_PRIVATE}|>"

_SPELLED = regex.compile(r"<\|replace\|>", regex.IGNORECASE)
_IN_TEMPLATE = regex.compile(r"\[\*\]|<\|replace\|>", regex.IGNORECASE)
_NUMBERED = regex.compile(r"\[\*(\d*)\]|<\|replace\|>", regex.IGNORECASE)
# CLIP's own word pattern, less its special tokens: those are put in by number only.
_PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def template(text: str) -> str:
    """A template's `[*]` or `<|replace|>` made the placeholder."""
    return _IN_TEMPLATE.sub(MARK, text)


def numbered_template(text: str) -> tuple[str, tuple[int | None, ...]]:
    """A template with `[*1]`, `[*2]`, `[*]`, each made a placeholder; and their numbers in order, None for `[*]`."""
    text = as_text(text)
    numbers = tuple(int(found[1]) if found[1] else None for found in _NUMBERED.finditer(text))
    return _NUMBERED.sub(MARK, text), numbers


def mark_placeholders(masked_caption: str) -> str:
    """A masked caption's `<|replace|>`, in any case, made the placeholder."""
    return _SPELLED.sub(MARK, as_text(masked_caption))


def fill(text: str, **captions: str) -> str:
    """The template `text` with its `{fields}` filled by captions, e.g. `fill("a photo of [*] , {caption}", caption=c)`.

    Braces and special tokens inside a caption stay text.
    """
    safe = {name: as_text(caption) for name, caption in captions.items()}
    return string.Formatter().vformat(template(text), (), safe)


def as_text(caption: str) -> str:
    """The caption without the private character that MARK is made of, in whatever way it is written."""
    return clean(caption).replace(_PRIVATE, " ") if _PRIVATE in clean(caption) else caption


def readable(text: str) -> str:
    """For people: the placeholder shown as `[*]`."""
    return text.replace(MARK, "[*]")


def clean(text: str) -> str:
    """CLIP's cleaning: broken encodings mended, entities decoded (twice), white space joined, lower case."""
    plain = text.replace(_PRIVATE, "")
    if not (plain.isascii() and plain.isprintable()) or "&" in plain:  # else there is nothing to mend, which takes long
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class Tokenizer:
    """CLIP's byte-pair encoding with one token more, the placeholder (id 49405).

    The last BPE merge ("jekyll") gives up its id to the placeholder, as in the published code.
    dollar: as SEARLE and LinCIR write prompts, CLIP's vocabulary untouched and `$` in the placeholder's place. Of
    several lone `$` the "first" is the placeholder, or "every" one, a caption's too.
    """

    def __init__(self, context_length: int = CONTEXT_LENGTH, dollar: str | None = None):
        self.context_length, self.dollar = context_length, dollar
        self._bpe = open_clip.tokenizer.SimpleTokenizer()
        self._bpe.cache.clear()  # its special tokens live there
        if dollar is None:
            last_merge = max(self._bpe.bpe_ranks, key=self._bpe.bpe_ranks.__getitem__)
            del self._bpe.bpe_ranks[last_merge], self._bpe.encoder["".join(last_merge)]
        self.cut: set[str] = set()  # texts that were too long, so far
        self._known: dict[str, list[int]] = {}  # words come again

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without start and end; MARK becomes the placeholder's id."""
        segments = clean(text.replace(MARK, "$") if self.dollar else text).split(MARK)
        ids = [i for segment in segments for i in (PLACEHOLDER_ID, *self._encode_plain(segment))]
        return ids[1:]  # they stand between the segments

    def __call__(self, texts: Collection[str]) -> Tensor:
        """Token ids [B, context_length], zero after the end token; a longer text is cut and keeps its end token."""
        rows, most = np.zeros((len(texts), self.context_length), dtype=np.int64), self.context_length - 2
        for row, text in zip(rows, texts, strict=True):
            ids = self.encode(text)
            if len(ids) > most:
                self.cut.add(text)
            ids = [START_ID, *ids[:most], END_ID]
            row[: len(ids)] = ids
        return torch.from_numpy(rows)

    def places(self, ids: Tensor) -> Tensor:
        """Where the placeholders of token ids [B, L] are, bool [B, L]."""
        if self.dollar is None:
            return ids == PLACEHOLDER_ID
        dollars = ids == self._bpe.encoder["$</w>"]
        return dollars if self.dollar == "every" else dollars & (dollars.cumsum(1) == 1)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; start, end and padding are left out and the placeholder is shown as `[*]`."""
        shown = {START_ID: "", END_ID: "", 0: "", PLACEHOLDER_ID: "[*] "}
        parts = itertools.groupby(map(int, ids), shown.__contains__)  # a character may lie over several tokens
        return "".join(
            "".join(shown[i] for i in part) if is_shown else self._bpe.decode(list(part)) for is_shown, part in parts
        ).strip()

    def whole_words(self) -> dict[int, str]:
        """Ids of the tokens that are a word of letters on their own, not a piece of a longer one."""
        found = ((i, token.removesuffix("</w>")) for i, token in self._bpe.decoder.items() if token.endswith("</w>"))
        return {i: word for i, word in found if word.isascii() and word.isalpha() and i < PLACEHOLDER_ID}

    def _encode_plain(self, cleaned: str) -> list[int]:
        bpe = self._bpe
        ids: list[int] = []
        for piece in _PIECES.findall(cleaned):
            if piece not in self._known:
                symbols = "".join(bpe.byte_encoder[byte] for byte in piece.encode())
                self._known[piece] = [bpe.encoder[token] for token in bpe.bpe(symbols).split(" ")]
            ids += self._known[piece]
        return ids
