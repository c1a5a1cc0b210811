"""The data check: states, sizes, what is missing, and the next command."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from context_i2w.preparation import cc3m, data_check

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path, golden_data):
    """A copy of the small benchmarks that may be broken."""
    shutil.copytree(golden_data, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["cirr", "cirr_test", "fashion", "imgnet", "coco"])
def test_small_copies_are_whole_but_not_of_the_published_size(data, name):
    finding = data_check.check_benchmark(name, data, decode=name == "fashion")
    assert finding.state == data_check.DIFFERENT
    assert finding.next == f"python src/eval_retrieval.py --resume CHECKPOINT --eval-mode {name} --data-root {data}"


def test_published_sizes_are_told_apart(data, monkeypatch):
    lines = data_check.check_benchmark("cirr", data).lines
    assert lines[0] == "all: 150 queries, 90 gallery images (published: 4,181 and 2,297)"
    small = data_check.Published("CIRR", "CIRR", {"all": (150, 90)})
    monkeypatch.setitem(data_check.PUBLISHED, "cirr", small)
    finding = data_check.check_benchmark("cirr", data)
    assert finding.state == data_check.COMPLETE
    assert finding.lines[0].endswith(", as published")


def test_missing_and_broken_images_are_listed_in_full(data, golden_data):
    images = sorted((data / "fashion-iq" / "images").iterdir())
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:40])
    finding = data_check.check_benchmark("fashion", data, decode=True)
    assert finding.state == data_check.INCOMPLETE
    listed = (data / "missing_fashion.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == [
        str(data / "fashion-iq" / "images" / f"{images[0].stem}.png"),
        str(images[1]),
    ]
    assert "2 images missing or broken" in finding.text()
    assert finding.next == "data/README.md, section FashionIQ"
    shutil.copytree(golden_data / "fashion-iq" / "images", data / "fashion-iq" / "images", dirs_exist_ok=True)
    data_check.check_benchmark("fashion", data)
    assert not (data / "missing_fashion.txt").exists()


def test_next_command_makes_the_lists(data):
    (data / "coco" / "coco_eval.csv").unlink()
    finding = data_check.check_benchmark("coco", data)
    assert finding.state == data_check.ABSENT
    assert finding.next == f"python scripts/prepare_coco.py --coco {data / 'coco'}"
    shutil.rmtree(data / "imgnet" / "real")
    assert "prepare_imagenet.py" in data_check.check_benchmark("imgnet", data).next
    shutil.rmtree(data / "imgnet")
    assert data_check.check_benchmark("imgnet", data).next == "data/README.md, section ImageNet and ImageNet-R"


def test_cc3m_step_by_step(tmp_path):
    cc, images = tmp_path / "cc", tmp_path / "cc_data"

    def train():
        return data_check.check_cc3m(cc, images)[0]

    assert (train().state, train().next) == (data_check.ABSENT, "docs/data.md")
    cc.mkdir()
    (cc / cc3m.GOOGLE_FILES["train"]).write_text("a dog\thttp://x/1.jpg\n")
    assert "1 links (published: 3,318,333)" in train().text()
    assert train().next == "python scripts/prepare_cc3m.py download --run"
    part = images / "train" / "00000"
    part.mkdir(parents=True)
    (part / "000000000.jpg").write_bytes(b"jpg")
    (part / "000000000.txt").write_text("a dog")
    (images / "train" / "00000_stats.json").write_text(json.dumps({"count": 1, "successes": 1}))
    assert train().next == "python scripts/prepare_cc3m.py lists"
    listed = cc / cc3m.LIST_FILES["train"]
    cc3m.make_list(images / "train", listed)
    assert train().next == f"python scripts/mask_captions.py {listed}"
    listed.write_text(f"filepath\ttitle\tmasked_title\n{part / '000000000.jpg'}\ta dog\t<|replace|>\n")
    assert train().state == data_check.COMPLETE
    (part / "000000000.jpg").unlink()
    assert "of 1 images looked for 1 are missing" in train().text()
    (images / "train" / "00000.tar").write_bytes(b"")
    listed.unlink()
    assert train().next == f"python scripts/mask_captions.py {images / 'train'} --output {images / 'train'}_masked"
    (images / "train_masked").mkdir()
    (images / "train_masked" / "00000.tar").write_bytes(b"")
    assert train().state == data_check.COMPLETE
    assert (
        train().next == f"python src/main.py --train-data={images / 'train_masked'} --model ViT-L/14 "
        "--openai-pretrained (docs/training.md)"
    )
    (images / "train" / "00001.tar").write_bytes(b"")
    assert train().state == data_check.INCOMPLETE
    assert train().next.startswith("python scripts/mask_captions.py")


def test_ready_made_shards_of_cc3m_need_no_links(tmp_path):
    for folder in ("wds", "train_masked", "val_masked"):
        (tmp_path / folder).mkdir()
    for name in ("train-0000", "validation-0000", "validation-0001"):
        (tmp_path / "wds" / f"cc3m-{name}.tar").write_bytes(b"")
    fetched = data_check.check_cc3m(tmp_path / "cc", tmp_path)[0]
    mask = f"python scripts/mask_captions.py {tmp_path}/wds/*-train*.tar --output {tmp_path}/train_masked"
    assert (fetched.state, fetched.next) == (data_check.INCOMPLETE, mask)
    for shard in (tmp_path / "wds").iterdir():
        shutil.copy(shard, tmp_path / ("val_masked" if "validation" in shard.name else "train_masked"))
    assert [found.state for found in data_check.check_cc3m(tmp_path / "cc", tmp_path)] == [data_check.COMPLETE] * 2
    (tmp_path / "val_masked" / "cc3m-validation-0001.tar").unlink()
    train, val = data_check.check_cc3m(tmp_path / "cc", tmp_path)
    assert (train.state, val.state) == (data_check.COMPLETE, data_check.INCOMPLETE)


@pytest.fixture
def run(data, tmp_path, monkeypatch, capsys):
    """Runs the script in this process (starting another would import torch each time): status, stdout, stderr."""

    def run(*arguments):
        places = ["--data-root", data, "--cc", tmp_path / "cc", "--cc-data", tmp_path / "cc_data"]
        monkeypatch.setattr(sys, "argv", ["check_data.py", *map(str, [*arguments, *places])])
        status = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "check_data.py"), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def test_script(run):
    status, out, _ = run()
    assert status == 0
    for published in data_check.PUBLISHED.values():
        assert published.title in out
    assert "Conceptual Captions 3M, val (cc3m): absent" in out
    assert run("coco")[0] == 1
    status, out, err = run("imagenet")
    assert (status, out) == (2, "")
    assert err.startswith("error: unknown data set imagenet; known: coco,")
