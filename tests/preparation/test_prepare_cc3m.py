"""CC3M preparation: the download command, and lists from what img2dataset leaves."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from context_i2w.errors import UserError
from context_i2w.preparation import cc3m

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_cc3m.py"
GOOGLE = 'a "dog" runs\thttp://x/1.jpg\n" quoted\thttp://x/2.jpg\n'


def make_download(folder, masked=False):
    """img2dataset's output in files: two parts, one image without a caption, one link that failed."""
    captions = {"00000/000000000": "a\tdog", "00000/000000001": "", "00001/000010000": 'the "cat"'}
    for name, caption in captions.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".jpg").write_bytes(b"jpg")
        path.with_suffix(".txt").write_text(caption)
        fields = {"caption": caption, "status": "success", **({"masked_title": "<|replace|>"} if masked else {})}
        path.with_suffix(".json").write_text(json.dumps(fields))
    for part, successes in (("00000", 2), ("00001", 1)):
        stats = {"count": 2, "successes": successes, "status_dict": {"success": successes, "HTTP 404": 2 - successes}}
        (folder / f"{part}_stats.json").write_text(json.dumps(stats))
    return folder


def read_list(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_list_from_files(tmp_path):
    folder = make_download(tmp_path / "train")
    assert cc3m.make_list(folder, tmp_path / "list.csv") == (2, 1)
    assert read_list(tmp_path / "list.csv") == [
        {"filepath": f"{folder}/00000/000000000.jpg", "title": "a\tdog"},
        {"filepath": f"{folder}/00001/000010000.jpg", "title": 'the "cat"'},
    ]


def test_masked_captions_travel_through_the_download(tmp_path):
    folder = make_download(tmp_path / "train", masked=True)
    cc3m.make_list(folder, tmp_path / "list.csv")
    assert [row["masked_title"] for row in read_list(tmp_path / "list.csv")] == ["<|replace|>"] * 2


def test_report(tmp_path):
    report = cc3m.read_report(make_download(tmp_path / "train"))
    assert report == cc3m.DownloadReport(4, 3, {"HTTP 404": 1})
    assert report.text() == "3 of 4 links answered (75.0 %); failures: HTTP 404: 1"
    (tmp_path / "train" / "00001_stats.json").write_text("{")
    with pytest.raises(UserError, match=r"not JSON .*; delete it"):
        cc3m.read_report(tmp_path / "train")


def test_header(tmp_path):
    source = tmp_path / "google.tsv"
    source.write_text(GOOGLE)
    assert cc3m.read_header(source) == []
    copy = cc3m.with_header(source, tmp_path / "copy.tsv")
    assert read_list(copy) == [
        {"caption": 'a "dog" runs', "url": "http://x/1.jpg"},
        {"caption": '" quoted', "url": "http://x/2.jpg"},
    ]
    assert cc3m.read_header(copy) == ["caption", "url"]
    source.write_text("title\tlink\n")
    with pytest.raises(UserError, match="found 'title', 'link'"):
        cc3m.read_header(source)


def test_command(tmp_path):
    options = cc3m.DownloadOptions()
    command = cc3m.download_command(Path("in.tsv"), Path("out"), ["caption", "url"], options)
    assert command[command.index("--resize_mode") + 1] == "keep_ratio"
    assert command[command.index("--output_format") + 1] == "files"
    assert "--save_additional_columns" not in command
    shards = cc3m.DownloadOptions(shards=True)
    command = cc3m.download_command(Path("in.tsv"), Path("out"), ["caption", "url", "masked_title"], shards)
    assert command[command.index("--output_format") + 1] == "webdataset"
    assert command[-1] == '["masked_title"]'


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_script(tmp_path):
    (tmp_path / "cc").mkdir()
    for name in cc3m.GOOGLE_FILES.values():
        (tmp_path / "cc" / name).write_text(GOOGLE)
    places = ("--cc", tmp_path / "cc", "--cc-data", tmp_path / "cc_data")
    printed = run("download", *places)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.count("img2dataset --input_format tsv") == 2
    early = run("lists", *places)
    assert early.returncode == 2
    assert early.stderr.startswith("error: ")
    assert "run the download first" in early.stderr
    for split in cc3m.SPLITS:
        make_download(tmp_path / "cc_data" / split)
    done = run("lists", *places)
    assert done.returncode == 0, done.stderr
    assert "train: 2 pairs in" in done.stdout
    assert "1 images without a caption left out" in done.stdout


def test_shards_need_no_list(tmp_path):
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(UserError, match="shards need no list"):
        cc3m.make_list(tmp_path, tmp_path / "list.csv")


def test_samples_that_are_none_have_no_caption(tmp_path):
    part = tmp_path / "train" / "00000"
    part.mkdir(parents=True)
    contents = [
        "[1]",
        '{"caption": 3}',
        '{"caption": "\\ud800"}',
        "[" * 100_000,
        '{"caption": "a\\ncup", "masked_title": 3}',
    ]
    for number, content in enumerate(contents):
        (part / f"{number}.jpg").touch()
        (part / f"{number}.json").write_text(content)
    (part / "._0.jpg").touch()
    assert cc3m.make_list(tmp_path / "train", tmp_path / "list.csv") == (1, 4)
    assert [row["title"] for row in read_list(tmp_path / "list.csv")] == ["a cup"]


def test_a_tab_in_googles_file_is_named(tmp_path):
    (tmp_path / "g.tsv").write_text("a cup\thttp://x/1\na red\tcar\thttp://x/2\n")
    with pytest.raises(UserError, match="line 2: 3 columns"):
        cc3m.with_header(tmp_path / "g.tsv", tmp_path / "h.tsv")
    assert not (tmp_path / "h.tsv").exists()
