"""Masked captions: policies, parsers, lists and shards, resuming."""

import csv
import gzip
import io
import json
import runpy
import shutil
import sys
import tarfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from context_i2w.data.shard_files import read_samples
from context_i2w.data.tables import read_table
from context_i2w.errors import UserError
from context_i2w.preparation import cc3m
from context_i2w.preparation.masking import lists as masking_lists
from context_i2w.preparation.masking import shards as masking_shards
from context_i2w.preparation.masking import spacy_parser
from context_i2w.preparation.masking.cases import read_cases, score
from context_i2w.preparation.masking.rule_parser import RuleParser, find_chunks
from context_i2w.preparation.masking.rules import POLICIES, Chunk, Span, mask, mask_captions
from context_i2w.preparation.masking.summary import Summary
from context_i2w.toy_world.captions import make_caption
from context_i2w.toy_world.scenes import random_scene, stream_key

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "data" / "masking_cases.txt"
HOLE = "<|replace|>"


def masked(caption, policy="subject"):
    return next(mask_captions([caption], RuleParser(), policy)).caption


# ---- policies and parsers


def test_policies_on_one_caption():
    caption = "a group of old men near the traffic light"
    assert masked(caption) == "a group of <|replace|> near the traffic light"
    assert masked(caption, "head-noun") == "a group of old <|replace|> near the traffic light"
    assert masked(caption, "all-nouns") == "a group of old <|replace|> near the <|replace|>"


def test_captions_without_an_object_stay_whole():
    for caption in ("", "   ", "!!!", "they are very happy together", "in , on"):
        assert masked(caption) == caption


@given(st.text(max_size=80), st.sampled_from(list(POLICIES)))
def test_any_text_keeps_its_words(caption, policy):
    """The unmasked pieces are found in the caption in order, and the phrases fill the holes exactly."""
    result = next(mask_captions([caption], RuleParser(), policy))
    pieces = result.caption.split(HOLE)
    assert len(pieces) == len(result.phrases) + 1
    woven = "".join(piece + phrase for piece, phrase in zip(pieces, [*result.phrases, ""], strict=True))
    assert woven == caption


WORDS = ["a", "red", "dog", "'s", "two", "running", "parked", "walks", "of", ",", "to", "that", "very", "and"]


@given(st.lists(st.sampled_from(WORDS)))
def test_chunks_are_in_order_and_hold_their_nouns(words):
    caption = " ".join(words)
    chunks = find_chunks(caption)
    for chunk in chunks:
        assert chunk.span.start <= chunk.nouns[0].start
        assert chunk.span.end == chunk.head.end == chunk.nouns[-1].end
    assert all(first.span.end <= second.span.start for first, second in pairwise(chunks))
    assert sum(chunk.subject for chunk in chunks) <= 1


@pytest.mark.parametrize("spelled", ["<|replace|>", "<|REPLACE|>"])
def test_a_title_that_spells_the_placeholder_gains_no_mask(spelled):
    result = masked(f"a dog beside {spelled}")
    assert result.lower() == "<|replace|> beside <| replace |>"
    inside = mask(spelled, [])
    assert HOLE not in inside.caption.lower()
    assert inside.phrases == ()


def test_hand_written_captions():
    """The rule parser's measured accuracy, so that a change that costs any is noticed."""
    scores = {(s.policy, s.group): s for s in score(read_cases(CASES), RuleParser())}
    assert sum(s.total for s in scores.values()) >= 3 * 60
    assert scores["subject", "tuning"].percent > 95
    assert scores["head-noun", "tuning"].percent > 95
    assert scores["all-nouns", "tuning"].percent > 93
    for policy, floor in (("subject", 90), ("head-noun", 90), ("all-nouns", 80)):
        assert scores[policy, "held out"].percent > floor


def test_toy_world_captions():
    captions = [make_caption(random_scene(stream_key(0, "masking test"), i)) for i in range(300)]
    results = mask_captions([caption.text() for caption in captions], RuleParser(), "head-noun")
    allowed = [[caption.masked(gap) for gap in range(len(caption.nouns))] for caption in captions]
    right = sum(result.caption in masks for result, masks in zip(results, allowed, strict=True))
    assert right >= 297


def test_annotated_captions_are_read(tmp_path):
    path = tmp_path / "cases.txt"
    path.write_text("# remark\n== one: note\n[a {traffic light}] on the {street}\nit rains\n")
    case, other = read_cases(path)
    assert case.caption == "a traffic light on the street"
    assert case.expected == {
        "subject": "<|replace|> on the street",
        "head-noun": "a traffic <|replace|> on the street",
        "all-nouns": "a <|replace|> on the <|replace|>",
    }
    assert (case.group, other.group, set(other.expected.values())) == ("one", "one", {"it rains"})
    path.write_text("a {dog}\n")
    with pytest.raises(UserError, match="line 1: nouns are marked"):
        read_cases(path)


def fake_document(words, chunks):
    """What spaCy's Doc offers, as far as it is used: (text, part of speech, dependency, head) and chunk ranges."""
    tokens, place = [], 0
    for number, (text, pos, dependency, _) in enumerate(words):
        tokens.append(SimpleNamespace(text=text, idx=place, i=number, pos_=pos, dep_=dependency))
        place += len(text) + 1
    for token, (_, _, _, head) in zip(tokens, words, strict=True):
        token.head = tokens[head]

    class FakeChunk(list):
        def __init__(self, begin, end):
            super().__init__(tokens[begin:end])
            self.root, self.start_char = self[-1], self[0].idx
            self.end_char = self[-1].idx + len(self[-1].text)

    class FakeDocument(list):
        def __init__(self):
            super().__init__(tokens)
            self.noun_chunks = [FakeChunk(*chunk) for chunk in chunks]

        def has_annotation(self, name):
            return bool(chunks)

    return FakeDocument()


def test_spacy_documents():
    # "at noon a traffic cop sees it": the subject is not the first chunk, and a pronoun is none
    document = fake_document(
        [
            ("at", "ADP", "prep", 5), ("noon", "NOUN", "pobj", 0), ("a", "DET", "det", 4),
            ("traffic", "NOUN", "compound", 4), ("cop", "NOUN", "nsubj", 5), ("sees", "VERB", "ROOT", 5),
            ("it", "PRON", "dobj", 5),
        ],
        [(1, 2), (2, 5), (6, 7)],
    )  # fmt: skip
    assert spacy_parser.chunks_of(document) == [
        Chunk(Span(3, 7), Span(3, 7), (Span(3, 7),)),
        Chunk(Span(8, 21), Span(18, 21), (Span(10, 21),), subject=True),
    ]
    with pytest.raises(UserError, match="no dependency parse"):
        spacy_parser.chunks_of(fake_document([("dog", "NOUN", "ROOT", 0)], []))


def test_spacy_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match="spaCy is not installed; `pip install spacy"):
        spacy_parser.SpacyParser()


def test_a_real_spacy_pipeline(tmp_path):
    spacy = pytest.importorskip("spacy")
    from spacy.language import Language
    from spacy.tokens import Doc

    @Language.component("by_hand")
    def by_hand(document):
        tags = {"the": ("DET", 1, "det"), "dog": ("NOUN", 2, "nsubj"), "sees": ("VERB", 2, "ROOT")}
        filled = [tags.get(token.text, ("NOUN", 2, "dobj")) for token in document]
        return Doc(
            document.vocab,
            words=[token.text for token in document],
            pos=[pos for pos, _, _ in filled],
            heads=[head for _, head, _ in filled],
            deps=[dependency for _, _, dependency in filled],
        )

    nlp = spacy.blank("en")
    nlp.to_disk(tmp_path / "empty")
    with pytest.raises(UserError, match="is empty"):
        spacy_parser.SpacyParser(str(tmp_path / "empty"))
    nlp.add_pipe("by_hand")
    nlp.to_disk(tmp_path / "model")
    parser = spacy_parser.SpacyParser(str(tmp_path / "model"))
    found = [m.caption for m in mask_captions(["the dog sees people", ""], parser, "subject")]
    assert found == ["<|replace|> sees people", ""]
    with pytest.raises(UserError, match="'nowhere' is not installed"):
        spacy_parser.SpacyParser("nowhere")


# ---- lists


TITLES = ["a dog", 'he said "no"', "a tab\there", "", "ünïcode cat <|replace|>", "a red car parked on the street"]
EXPECTED = [
    "<|replace|>", 'he said "no"', "<|replace|>\there", "", "<|replace|> <| replace |>",
    "<|replace|> parked on the street",
]  # fmt: skip


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.csv"
    table = pd.DataFrame({"filepath": [f"{i}.jpg" for i in range(len(TITLES))], "title": TITLES})
    table.to_csv(path, sep="\t", index=False)
    return path


def read_back(path, separator="\t"):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=separator))


def test_list_in_place(listed):
    summary = masking_lists.mask_list(listed, listed, RuleParser(), "subject")
    rows = read_back(listed)
    assert [row["title"] for row in rows] == TITLES
    assert [row["masked_title"] for row in rows] == EXPECTED
    assert (summary.captions, summary.masked) == (6, 4)
    assert "4 masked (66.7 %), 2 without an object kept whole" in summary.text()
    assert sorted(path.name for path in listed.parent.iterdir()) == ["list.csv"]
    with pytest.raises(UserError, match="--overwrite"):
        masking_lists.mask_list(listed, listed, RuleParser(), "subject")
    masking_lists.mask_list(listed, listed, RuleParser(), "head-noun", overwrite=True)
    assert read_back(listed)[5]["masked_title"] == "a red <|replace|> parked on the street"


def test_comma_and_parquet_lists_hold_the_same(listed, tmp_path):
    table = pd.read_csv(listed, sep="\t", keep_default_na=False)
    table.to_csv(tmp_path / "comma.csv", index=False)
    masking_lists.mask_list(tmp_path / "comma.csv", tmp_path / "out.csv", RuleParser(), "subject")
    assert [row["masked_title"] for row in read_back(tmp_path / "out.csv", ",")] == EXPECTED
    pytest.importorskip("pyarrow")
    table.to_parquet(tmp_path / "list.parquet")
    masking_lists.mask_list(tmp_path / "list.parquet", tmp_path / "out.parquet", RuleParser(), "subject")
    assert pd.read_parquet(tmp_path / "out.parquet")["masked_title"].tolist() == EXPECTED


def test_google_tsv_without_header(tmp_path):
    source = tmp_path / "Train_GCC-training.tsv"
    source.write_text('a "dog\thttp://x/1.jpg\nthe cat\thttp://x/2.jpg\n')
    assert not read_table(source).has_header
    masking_lists.mask_list(source, tmp_path / "out.tsv", RuleParser(), "subject")
    assert cc3m.read_header(tmp_path / "out.tsv") == ["caption", "url", "masked_title"]
    rows = read_back(tmp_path / "out.tsv")
    assert rows[0] == {"caption": 'a "dog', "url": "http://x/1.jpg", "masked_title": 'a "<|replace|>'}


def test_bad_lists_are_named(tmp_path):
    path = tmp_path / "list.csv"
    with pytest.raises(UserError, match="no such list"):
        masking_lists.mask_list(path, path, RuleParser(), "subject")
    path.write_text("file\ttext\n1.jpg\ta dog\n")
    with pytest.raises(UserError, match="no column 'title' or 'caption'; found 'file', 'text'"):
        masking_lists.mask_list(path, path, RuleParser(), "subject")
    masking_lists.mask_list(path, path, RuleParser(), "subject", column="text")
    assert read_back(path) == [{"file": "1.jpg", "text": "a dog", "masked_title": "<|replace|>"}]


LISTS = ROOT / "tests/data/cases"


@pytest.mark.parametrize("name", ["list_two_quotes.tsv", "google_with_header_two_quotes.tsv"])
def test_lone_quotes_lose_no_row(tmp_path, name):
    path = Path(shutil.copy(LISTS / name, tmp_path))
    before = read_table(path)
    masking_lists.mask_list(path, path, RuleParser(), "subject")
    after = read_table(path)
    assert len(after) == 12
    assert {column: after.columns[column] for column in before.columns} == before.columns


@pytest.mark.parametrize("name", ["list_tab_in_first_caption.tsv", "list_windows1252.tsv"])
def test_a_list_in_doubt_is_left_as_it_is(tmp_path, name):
    path = Path(shutil.copy(LISTS / name, tmp_path))
    with pytest.raises(UserError, match=r", line \d: "):
        masking_lists.mask_list(path, path, RuleParser(), "subject")
    assert path.read_bytes() == (LISTS / name).read_bytes()
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_a_list_that_would_not_read_back_is_not_replaced(listed, monkeypatch):
    before = listed.read_bytes()
    monkeypatch.setattr(masking_lists, "write_table", lambda table, target: target.write_text("title\nx\n"))
    with pytest.raises(UserError, match="left as it is"):
        masking_lists.mask_list(listed, listed, RuleParser(), "subject")
    assert listed.read_bytes() == before


def test_parquet_and_gzip_keep_their_types(tmp_path):
    table = pd.DataFrame({"title": ["a dog", None], "n": pd.array([1, None], dtype="Int64")})
    table.to_parquet(tmp_path / "l.parquet")
    masking_lists.mask_list(tmp_path / "l.parquet", tmp_path / "l.parquet", RuleParser(), "subject")
    after = pd.read_parquet(tmp_path / "l.parquet")
    assert after["masked_title"].tolist() == ["<|replace|>", ""]
    assert after.dtypes["n"] == table.dtypes["n"]
    (tmp_path / "l.tsv.gz").write_bytes(gzip.compress(b"title\tn\na dog\t1\n"))
    masking_lists.mask_list(tmp_path / "l.tsv.gz", tmp_path / "l.tsv.gz", RuleParser(), "subject")
    assert gzip.decompress((tmp_path / "l.tsv.gz").read_bytes()) == b"title\tn\tmasked_title\na dog\t1\t<|replace|>\n"


class Stopping(RuleParser):
    """Stops in the middle of the work, as a killed process does."""

    def __init__(self, parts):
        self.parts = parts

    def parse(self, captions):
        self.parts -= 1
        if self.parts < 0:
            raise KeyboardInterrupt
        return super().parse(captions)


def test_stopped_list_goes_on_and_equals_an_unbroken_one(listed, tmp_path, monkeypatch):
    whole = masking_lists.mask_list(listed, tmp_path / "whole.csv", RuleParser(), "subject")
    monkeypatch.setattr(masking_lists, "PART_ROWS", 2)
    output = tmp_path / "parts.csv"
    with pytest.raises(KeyboardInterrupt):
        masking_lists.mask_list(listed, output, Stopping(2), "subject")
    assert not output.exists()
    with pytest.raises(UserError, match="unfinished run with another list, parser or policy"):
        masking_lists.mask_list(listed, output, RuleParser(), "all-nouns")
    resumed = masking_lists.mask_list(listed, output, Stopping(1), "subject")
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert resumed.text() == whole.text()
    assert Summary.from_json(json.loads(json.dumps(whole.as_json()))) == whole


# ---- shards


def write_shard(path, samples):
    with tarfile.open(path, "w") as archive:
        for name, content in samples:
            header = tarfile.TarInfo(name)
            header.size, header.mtime = len(content), 7
            archive.addfile(header, io.BytesIO(content))


def read_shard(path):
    with tarfile.open(path) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]


SAMPLES = [
    ("000.jpg", b"\xff\xd8 0"), ("000.json", b'{"width": 3}'), ("000.txt", b"a dog"),
    ("001.jpg", b"\xff\xd8 1"), ("001.json", b'{"caption": "the cat sleeps", "x": 1}'),
    ("002.jpg", b"\xff\xd8 2"), ("002.json", b"{broken"), ("002.txt", b"a cow"),
    ("003.jpg", b"\xff\xd8 3"), ("003.txt", b"a caf\xe9 table"),
    ("004.jpg", b"no text"),
]  # fmt: skip


def test_shards(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(2):
        write_shard(tmp_path / "in" / f"{number:05d}.tar", SAMPLES)
    sizes = {"00001_stats.json": '{"successes": 5}', "_info.json": '{"splits": {}}'}
    for name, content in sizes.items():
        (tmp_path / "in" / name).write_text(content)
    (tmp_path / "in" / "sizes.json").write_bytes(b"\xa4")  # for training to refuse
    shards = masking_shards.find_shards([str(tmp_path / "in" / "{00000..00001}.tar")])
    assert shards == masking_shards.find_shards([str(tmp_path / "in")])
    summary = masking_shards.mask_shards(shards, tmp_path / "out", RuleParser(), "subject")
    assert (summary.captions, summary.masked, summary.without_caption) == (6, 6, 4)
    assert {name: (tmp_path / "out" / name).read_text() for name in sizes} == sizes
    assert (tmp_path / "out" / "sizes.json").read_bytes() == b"\xa4"
    result = read_shard(tmp_path / "out" / "00001.tar")
    fields = {name: json.loads(content) for name, content in result if name[-4:] == "json" and name[:3] != "002"}
    assert fields == {
        "000.json": {"width": 3, "masked_title": "<|replace|>"},
        "001.json": {"caption": "the cat sleeps", "x": 1, "masked_title": "<|replace|> sleeps"},
        "003.json": {"masked_title": "<|replace|>\ufffd table"},
    }
    untouched = [pair for pair in SAMPLES if pair[0] not in fields]
    assert [pair for pair in result if pair[0] not in fields] == untouched
    assert [name for name, _ in result][-3:] == ["003.txt", "003.json", "004.jpg"]


def test_finished_shards_are_skipped_and_bad_ones_named(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(2):
        write_shard(tmp_path / "in" / f"{number:05d}.tar", SAMPLES)
    shards = masking_shards.find_shards([str(tmp_path / "in")])
    with pytest.raises(KeyboardInterrupt):
        masking_shards.mask_shards(shards, tmp_path / "out", Stopping(1), "subject")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["00000.tar", "00000_masking.json"]
    resumed = masking_shards.mask_shards(shards, tmp_path / "out", Stopping(1), "subject")
    assert resumed == masking_shards.mask_shards(shards, tmp_path / "again", RuleParser(), "subject")
    write_shard(shards[0], SAMPLES[:1])  # its masked copy is out of date
    changed = masking_shards.mask_shards(shards, tmp_path / "out", RuleParser(), "subject")
    assert changed == masking_shards.mask_shards(shards, tmp_path / "third", RuleParser(), "subject")
    assert len(list(read_samples(str(tmp_path / "out" / "00000.tar")))) == 1
    with pytest.raises(UserError, match="another parser or policy"):
        masking_shards.mask_shards(shards, tmp_path / "out", RuleParser(), "head-noun")
    with pytest.raises(UserError, match="folder of the shards themselves"):
        masking_shards.mask_shards(shards, tmp_path / "in", RuleParser(), "subject")
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match=r"00001.tar can't be read"):
        masking_shards.mask_shards(shards, tmp_path / "cut", RuleParser(), "subject")
    assert not (tmp_path / "cut" / "00001.tar").exists()
    with pytest.raises(UserError, match="no such shards"):
        masking_shards.find_shards([str(tmp_path / "{7..8}.tar")])


@pytest.mark.parametrize(("name", "samples"), [("large_uid", 1), ("long_name", 1), ("appledouble", 2)])
def test_shards_as_people_have_them(tmp_path, name, samples):
    source = LISTS / f"shard_{name}.tar"
    summary = masking_shards.mask_shards([source], tmp_path, RuleParser(), "subject")
    assert (summary.captions, summary.without_caption) == (samples, 0)
    before, after = read_shard(source), read_shard(tmp_path / source.name)
    assert [name for name, _ in after] == [name for name, _ in before if "/._" not in name]
    assert all("<|replace|>" in json.loads(content)["masked_title"] for name, content in after if name[-4:] == "json")
    kept = dict(before)
    assert all(kept[name] == content for name, content in after if name[-4:] != "json")


def test_zipped_shards_and_json_with_a_mark(tmp_path):
    write_shard(tmp_path / "0.tar", [("0.json", b'\xef\xbb\xbf{"caption": "a dog"}')])
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress((tmp_path / "0.tar").read_bytes()))
    (tmp_path / "0.tar").unlink()
    masking_shards.mask_shards(masking_shards.find_shards([str(tmp_path)]), tmp_path / "out", RuleParser(), "subject")
    assert json.loads(read_shard(tmp_path / "out/0.tar.gz")[0][1]) == {
        "caption": "a dog",
        "masked_title": "<|replace|>",
    }


def test_samples_that_do_not_stand_together_are_named(tmp_path):
    write_shard(tmp_path / "0.tar", [("0.jpg", b""), ("1.jpg", b""), ("0.txt", b"a"), ("1.txt", b"b")])
    with pytest.raises(UserError, match="files of sample 0 do not stand together; pack it sorted by name"):
        masking_shards.mask_shards([tmp_path / "0.tar"], tmp_path / "out", RuleParser(), "subject")
    write_shard(tmp_path / "1.tar", [("0.jpg", b""), ("0.txt", b"a dog"), ("0.jpg", b""), ("0.txt", b"a cat")])
    assert masking_shards.mask_shards([tmp_path / "1.tar"], tmp_path / "out", RuleParser(), "subject").captions == 2
    (tmp_path / "b").mkdir()
    write_shard(tmp_path / "b/1.tar", [])
    with pytest.raises(UserError, match="two shards are called"):
        masking_shards.find_shards([str(tmp_path), str(tmp_path / "b")])


# ---- the script


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the script in this process: status, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mask_captions.py", *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "mask_captions.py"), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def test_script(run, listed, tmp_path):
    status, out, _ = run(listed, "--parser", "rules")
    assert status == 0
    assert "policy subject, parser rules" in out
    assert "6 captions: 4 masked" in out
    (tmp_path / "google.tsv").write_text("a dog\thttp://x/1.jpg\n")
    for arguments in (
        [tmp_path / "google.tsv"],
        [listed, "--parser", "other"],
        [],
        [tmp_path],
        [tmp_path / "none.csv"],
        [listed, "--output", "/"],
        [listed, "--masked-column", "\udc80"],
    ):
        status, _, err = run(*arguments, *([] if "--parser" in arguments else ["--parser", "rules"]))
        assert status == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_script_measures_the_parser(run):
    status, out, _ = run("--evaluate", CASES, "--parser", "rules")
    assert status == 0
    assert "captions per second" in out
    assert "all-nouns  held out" in out


def test_script_stopped_by_hand(run, listed, monkeypatch):
    monkeypatch.setattr(RuleParser, "parse", Stopping(0).parse)
    status, _, err = run(listed, "--parser", "rules")
    assert status == 130
    assert "stopped; the same command goes on where it was" in err
