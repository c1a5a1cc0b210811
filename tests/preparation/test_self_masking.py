"""Self-masked captions against what LinCIR's own code made of the same ones, and the default's own rules."""

import json
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import GOLDEN
from context_i2w.model.prompts import END_ID, MARK, PLACEHOLDER_ID, Tokenizer
from context_i2w.preparation.masking.rules import Span, Tagged
from context_i2w.preparation.masking.self_masking import (
    MASK,
    LinCIRTokenizer,
    SelfMasker,
    clean,
    joined,
    replaced,
    shortened,
)
from context_i2w.preparation.masking.spacy_parser import installed

GROUPS = json.loads((GOLDEN / "phi" / "lincir_masking.json").read_text())
CASES = [*GROUPS["captions"], *GROUPS["train"], *GROUPS["faults"], GROUPS["none"]]
KEYWORDS = {"NOUN", "PROPN", "ADJ", "DET"}
DOLLAR = 259  # LinCIR's placeholder
has_spacy = installed("en_core_web_sm") is not None


def tagged(caption: str, tokens) -> list[Tagged]:
    found, at = [], 0
    for text, tag in tokens:
        at = caption.index(text, at)
        found.append(Tagged(Span(at, at + len(text)), tag in KEYWORDS))
        at += len(text)
    return found


def recorded(case):
    """Draws the words that were drawn then, one after the other."""
    words = iter(case["random_words"])
    return lambda offered: next(words)


def test_clean_and_masked_captions_are_lincirs_from_its_tags():
    tokenizer = LinCIRTokenizer()
    for case in CASES:
        cleaned = shortened(clean(case["caption"]), tokenizer)
        assert cleaned == case["clean"]
        runs = joined(cleaned, tagged(cleaned, case["tokens"]))
        assert runs == case["runs"]
        assert replaced(cleaned, runs, recorded(case)) == case["masked"]


def test_token_ids_are_lincirs():
    tokenizer = LinCIRTokenizer()
    texts = [case["clean"] for case in CASES] + [case["masked"].replace(MASK, MARK) for case in CASES]
    wanted = [case["ids"] for case in CASES] + [case["masked_ids"] for case in CASES]
    for row, ids in zip(tokenizer(texts), wanted, strict=True):
        found = row[: int(row.argmax()) + 1]
        assert torch.where(found == PLACEHOLDER_ID, DOLLAR, found).tolist() == ids


@pytest.mark.skipif(not has_spacy, reason="spaCy's English pipeline is not installed")
def test_masked_captions_are_lincirs_with_spacy():
    masker = SelfMasker("lincir", "spacy", 77)
    assert masker.name.startswith("masked by lincir with spacy:en_core_web_sm 3.")
    cleaned = [masker.clean(case["caption"]) for case in CASES]
    for case, text, tokens in zip(CASES, cleaned, masker.tagger.tag(cleaned), strict=True):
        assert masker.mask(text, tokens, recorded(case)) == case["masked"].replace(MASK, MARK)


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a small dog on the beach", "[*] on [*]"),
        ("The dog's <PERSON> runs", "[*]'s [*] runs"),
        ("has a day with a cat", "has [*] with [*]"),  # no letter a inside a word
        ("fish &amp; chips!", "[*] & [*]!"),
        ("chair with a $ 20 bag", "[*] with [*] 20 [*]"),
        ("", "[*]"),
        ("!!", "[*]"),
    ],
)
def test_the_default_masks_where_the_words_stand(caption, wanted):
    masker = SelfMasker("offsets", "rules", 77)
    assert masker.name == "masked by offsets with rules"
    cleaned = masker.clean(caption)
    tokens = next(masker.tagger.tag([cleaned]))
    found = masker.mask(cleaned, tokens, random.Random(0).choice) if caption else MARK
    assert found.replace(MARK, "[*]") == wanted


def test_a_caption_without_keywords_loses_one_whole_word_by_its_seed():
    masker = SelfMasker("offsets", "rules", 77)
    caption = "running  quickly"
    found = {masker.tokenizer.decode(masker([caption], [str(seed)])[1][0]) for seed in range(20)}
    assert found == {"[*] quickly", "running [*]"}
    assert torch.equal(masker([caption], ["1"])[1], masker([caption], ["1"])[1])


def test_a_mask_that_is_cut_off_gives_the_prompt():
    masker = SelfMasker("offsets", "rules", 77)
    ids, masked = masker(["is " * 90 + "dog"], [""])
    assert masker.tokenizer.decode(masked[0]) == "a photo of [*]"
    assert ids[0, -1] == END_ID


@given(st.text(max_size=60), st.sampled_from(["offsets", "lincir"]))
def test_every_caption_gets_a_placeholder_and_none_of_its_own(caption, masking):
    ids, masked = MASKERS[masking]([caption, f"{caption} <|replace|> {MARK} [$]"], ["0", "1"])
    assert not (ids == PLACEHOLDER_ID).any()
    assert (masked == PLACEHOLDER_ID).any(dim=1).all()


MASKERS = {masking: SelfMasker(masking, "rules", 77) for masking in ("offsets", "lincir")}


def test_a_character_of_several_tokens_is_decoded_whole():
    tokenizer = Tokenizer()
    text = "a photo of 猫 and 🦓 [*]"
    assert tokenizer.decode(tokenizer.encode(text)) == "a photo of 猫 and 🦓 [ * ]".replace("[ * ]", "[*]")
