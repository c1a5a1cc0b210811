"""Tokenisation against the published tokeniser; captions stay text whatever they spell."""

import html
import json

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import GOLDEN
from context_i2w.model.prompts import (
    END_ID,
    MARK,
    PLACEHOLDER_ID,
    START_ID,
    Tokenizer,
    fill,
    mark_placeholders,
    readable,
    template,
)

TOKENIZER = Tokenizer()
GOLDEN_TEXTS = json.loads((GOLDEN / "tokenizer.json").read_text())


@pytest.mark.parametrize("row", GOLDEN_TEXTS, ids=lambda row: repr(row["text"][:30]))
def test_ids_equal_the_published_tokeniser(row):
    assert TOKENIZER([mark_placeholders(row["text"])])[0].tolist() == row["ids77"]


def test_template_and_fill():
    assert fill("a photo of [*] , {caption}", caption="on a {beach}") == f"a photo of {MARK} , on a {{beach}}"
    assert template("a <|REPLACE|>") == f"a {MARK}"
    assert readable(template("a [*]")) == "a [*]"


SPELLED = [
    "<|endoftext|>",
    "<|startoftext|>",
    "<|replace|>",
    "<end_of_text>",
    "&lt;|replace|&gt;",
    MARK,
    "&#xE000;",
]
HOSTILE = [*SPELLED, f"&lt;|{MARK[2]}|&gt;", "&lt;|&#xe000;|&gt;", "&amp;lt;|endoftext|&amp;gt;"]


@pytest.mark.parametrize("spelled", HOSTILE)
def test_captions_that_spell_special_tokens_are_text(spelled):
    ids = TOKENIZER([fill("a photo of [*] , {caption}", caption=f"red {spelled} blue")])[0]
    ids = ids[: int(ids.argmax()) + 1].tolist()
    assert ids.count(PLACEHOLDER_ID) == 1
    assert ids.count(START_ID) == 1
    assert ids.count(END_ID) == 1
    assert ids[-1] == END_ID


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_caption_leaves_the_template_as_it_is(first, second):
    ids = TOKENIZER.encode(fill("a photo of [*] , {b} and {a}", a=first, b=second))
    assert ids.count(PLACEHOLDER_ID) == 1
    assert ids[3] == PLACEHOLDER_ID
    assert not {START_ID, END_ID} & set(ids)


@given(st.text(st.sampled_from("".join(map(chr, range(32, 127))).replace("&", "") + MARK), max_size=40))
def test_plain_text_has_nothing_to_mend(text):
    assert html.unescape(html.unescape(ftfy.fix_text(text))) == text


def test_long_text_is_cut_and_keeps_its_end():
    ids = TOKENIZER(["dog " * 100])[0].tolist()
    assert len(ids) == 77
    assert ids[-1] == END_ID


def test_decode_gives_the_words_back():
    assert TOKENIZER.decode(TOKENIZER([template("a cartoon of [*] , red")])[0]) == "a cartoon of [*] , red"
