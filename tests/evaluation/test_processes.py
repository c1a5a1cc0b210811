"""Several processes share an evaluation: what comes out is to the bit what one process gives, and is said once."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.checkpoints.test_checkpoints import published_file

import eval_retrieval
from context_i2w.benchmarks.base import Benchmark, QueryGroup
from context_i2w.checkpoints.published import published_name
from context_i2w.distributed import joined, launch
from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import Result, evaluate
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.model.clip_weights import clip_from_openai_state
from context_i2w.model.images import ImageSource
from context_i2w.model.mappers import ContextI2W, Pic2Word
from context_i2w.model.prompts import template
from context_i2w.ranking.metrics import recall_at

ROOT = Path(__file__).parents[2]
METHODS = ("image", "text", "composed", "pdv:0.7:1:1")


def made_up(folder: Path) -> Benchmark:
    """Eleven images, the first and the last of the same pixels; seven queries."""
    gallery = [ImageSource(str(folder / f"{number:02d}.png")) for number in range(11)]
    captions = ["red", "blue", "a large dog", "red", "on a beach", "at night", "green and with a hat"]
    group = QueryGroup(
        name="all",
        gallery=gallery,
        gallery_names=[source.path for source in gallery],
        references=gallery[: len(captions)],
        query_ids=[str(number) for number in range(len(captions))],
        prompts=[(template(f"a photo of [*] , {caption}"),) for caption in captions],
        texts=[(caption,) for caption in captions],
        positives=[[number + 2] for number in range(len(captions))],
        score=lambda ranking: recall_at(ranking.ranks(torch.arange(len(captions)) + 2), (1, 3)),
    )
    return Benchmark("made-up", [group])


def results(folder: str) -> list:
    """Without a cache, with a new one, with a full one; then an error's text."""
    torch.manual_seed(0)
    state = load_file(ROOT / "tests" / "golden" / "clip_small_weights.safetensors")
    clip = clip_from_openai_state({name: tensor.float() for name, tensor in state.items()}, "golden")
    mappers = {"seeing": ContextI2W(clip.sizes).eval(), "blind": Pic2Word(clip.sizes).eval()}
    benchmark, cache = made_up(Path(folder)), Path(folder) / "cache"
    with joined("cpu") as process:
        options = EncodingOptions(2, 0, process=process)
        found = [
            evaluate(benchmark, clip, mappers, replace(options, feature_cache=feature_cache), METHODS)
            for feature_cache in (None, cache, cache)
        ]
        if not process.is_first:
            found = []
        [group] = benchmark.groups
        broken = replace(group, gallery=[*group.gallery, ImageSource(str(Path(folder) / "none.png"))])
        with pytest.raises(UserError) as error:
            evaluate(replace(benchmark, groups=[broken]), clip, mappers, options, METHODS)
        return [*map(plain, found), str(error.value)]


def plain(result: Result) -> tuple:
    """What may go from one process to another."""
    metrics = {row: {name: float(value) for name, value in of.items()} for row, of in result.metrics["all"].items()}
    return metrics, {key: top.tolist() for key, top in result.tops.items()}, result.passes


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "10.png").write_bytes((tmp_path / "00.png").read_bytes())
    (tmp_path / "none.png").write_text("no image")
    return tmp_path


def test_two_processes_give_the_bits_of_one(folder):
    one = results(str(folder))
    (folder / "cache").rename(folder / "cache of one")
    two = launch(results, 2, str(folder))
    assert two == one
    assert [passes["images"] for _, _, passes in one[:3]] == [11, 11, 7]
    [mine], [other] = (list((folder / name).iterdir()) for name in ("cache of one", "cache"))
    assert mine.read_bytes() == other.read_bytes()
    assert "none.png" in one[3]


@pytest.fixture
def arguments(tmp_path, golden_clip, golden_clip_state, golden_mapper_state, golden_data):
    torch.manual_seed(0)
    blind = {published_name(name): tensor for name, tensor in Pic2Word(golden_clip.sizes).state_dict().items()}
    states = {"seeing": golden_mapper_state, "blind": blind}
    files = [str(published_file(tmp_path / f"{name}.pt", golden_clip_state, state)) for name, state in states.items()]
    return ["--resume", *files, "--data-root", str(golden_data), "--device", "cpu", "--batch-size", "16"]


def test_the_command_says_and_writes_once_what_one_process_does(arguments, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("context_i2w.distributed.START", "spawn")  # what a fork server's processes say goes elsewhere
    said = []
    for processes in ("1", "2"):
        arguments += ["--eval-mode", "imgnet", "--workers", "0", "--processes", processes]
        arguments += ["--output", f"{tmp_path}/{processes}.json", "--rankings", f"{tmp_path}/{processes}.jsonl"]
        eval_retrieval.main(arguments)
        said.append([line for line in capfd.readouterr().out.splitlines() if "CLIP passes" not in line])
    assert said[0] == said[1]
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) | {"seconds": 0} for n in (1, 2))
    assert one == two


@pytest.mark.slow  # torchrun and each of its processes import all there is
def test_an_error_of_torchruns_processes_is_said_once(arguments, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "src" / "eval_retrieval.py"), *arguments, "--eval-mode", "nothing.py:Absent"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "nothing.py" in line


def test_a_gpu_for_all_processes_is_refused(capsys):
    with pytest.raises(SystemExit):
        eval_retrieval.main(["--eval-mode", "cirr", "--gpu", "0", "--processes", "2"])
    assert "--gpu names one" in capsys.readouterr().err
