"""docs/extending.md: its files, outside the repository, through everything that our own mappers go through."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eval_retrieval
import main
import share_mapper
from context_i2w import Retriever
from context_i2w.checkpoints.files import read_checkpoint
from context_i2w.errors import UserError
from context_i2w.toy_world import Sizes, make_toy_world
from context_i2w.toy_world.pairs import FOLDER, TRAINING_LIST

ROOT = Path(__file__).parents[1]
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with the document's files and a miniature toy world."""
    here = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        (here / name).write_text(text)
    world = make_toy_world(here / "data" / "toy", sizes=Sizes.mini(), workers=1) / FOLDER
    lines = (world / TRAINING_LIST).read_text().splitlines(keepends=True)
    (world / "few.tsv").write_text("".join(lines[:65]))
    return here


@pytest.fixture(scope="module")
def run(here):
    """Two epochs of both in two processes."""
    command = [sys.executable, str(ROOT / "src" / "main.py"), *ARGUMENTS, "--processes", "2", "--batch-size", "8"]
    subprocess.run(command, cwd=here, check=True, capture_output=True, timeout=300)
    return here / "logs" / "run"


ARGUMENTS = [
    "--mapper",
    "my_mapper.py:Pooling",
    "--mapper-option",
    "hidden=32",
    "--model",
    "toy",
    "--pretrained",
    "toy",
]
ARGUMENTS += ["--objective", "my_objective.py:Pairwise", "--train-data", f"data/toy/{FOLDER}/few.tsv"]
ARGUMENTS += ["--epochs", "2", "--warmup", "1", "--lr", "1e-2", "--device", "cpu", "--workers", "0", "--name", "run"]


def test_each_file_is_short():
    assert {"my_mapper.py", "my_objective.py", "my_benchmark.py"} <= FILES.keys()
    assert all(len(text.splitlines()) <= 40 for text in FILES.values())


def test_two_processes_learn_as_one(here, run, monkeypatch):
    """The objective's scale and bias too, which every process computes on the whole batch."""
    monkeypatch.chdir(here)
    main.main([*ARGUMENTS, "--batch-size", "16", "--name", "one"])
    one, two = (torch.load(here / "logs" / n / "checkpoints" / "last.pt", weights_only=True) for n in ("one", "run"))
    learned = one["training"]["objective"]
    assert learned["loss.logit_scale"] != torch.tensor(2.3)
    for name, value in learned.items():
        assert two["training"]["objective"][name] == pytest.approx(float(value), abs=1e-4), name
    for name, value in one["mapper"]["state"].items():
        assert torch.allclose(two["mapper"]["state"][name], value, atol=1e-3), name


def test_it_resumes_exactly_with_consent(here, run, monkeypatch, capsys):
    monkeypatch.chdir(here)
    main.main([*ARGUMENTS, "--batch-size", "16", "--name", "cut"])
    whole = torch.load("logs/cut/checkpoints/last.pt", weights_only=True)
    first = Path("logs/cut/checkpoints/epoch_1.pt")
    resumed = subprocess.run(
        [sys.executable, str(ROOT / "src" / "main.py"), "--resume", str(first)], capture_output=True, text=True
    )
    assert resumed.returncode == 2
    assert "would be imported" in resumed.stderr
    main.main(["--resume", str(first), "--trust-code", "--device", "cpu"])
    again = torch.load("logs/cut/checkpoints/last.pt", weights_only=True)
    for part in ("mapper", "training"):
        state = "state" if part == "mapper" else "objective"
        assert all(torch.equal(value, again[part][state][name]) for name, value in whole[part][state].items())


def test_it_is_evaluated_shared_loaded_and_searches(here, run, monkeypatch):
    monkeypatch.chdir(here)
    data = here / "data" / "toy" / "test"
    arguments = ["--eval-mode", "cirr", "--data-root", str(data), "--device", "cpu", "--output", "cirr.json"]
    eval_retrieval.main([*arguments, "--resume", str(run), "--trust-code"])
    assert "R@1" in json.loads(Path("cirr.json").read_text())["results"]["all"]["composed"]
    share_mapper.main(["--resume", str(run), "--output", "shared", "--trust-code"])
    (here / "elsewhere").mkdir(exist_ok=True)
    code = (
        "from context_i2w import Retriever; r = Retriever.load('../shared', device='cpu', trust_code=True); "
        "print(r.mapper_name, r.mapper.options.hidden)"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=here / "elsewhere", capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["my_mapper.py:Pooling", "32"]
    retriever = Retriever.load("shared", device="cpu", trust_code=True)
    index = retriever.index(data / "imgnet", cache=here / "cache")
    hits = index.search(index.path(index.names[0]), "a photo of [*] at night", k=3)
    assert len(hits) == 3


def test_a_strangers_code_is_not_imported(tmp_path, run):
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    (tmp_path / "theirs.py").write_text("open('marker', 'w')\n")
    content["mapper"]["name"] = "theirs.py:Pooling"
    torch.save(content, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=r"theirs\.py, which would be imported"):
        read_checkpoint(tmp_path / "theirs.pt")
    with pytest.raises(UserError, match="can't be imported"):
        read_checkpoint(tmp_path / "theirs.pt", trust_code=True)


def test_a_benchmark_of_ones_own(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    data = here / "my_data"
    data.mkdir(exist_ok=True)
    pictures = sorted((here / "data" / "toy" / "test").rglob("*.png"))[:6]
    names = [Path(shutil.copy(picture, data / f"{number}.png")).name for number, picture in enumerate(pictures)]
    lines = [f"{a}\tat night\t{b}\n" for a, b in zip(names, [*names[1:], names[0]])]
    (data / "pairs.tsv").write_text("".join(lines))
    arguments = ["--data-root", "my_data", "--device", "cpu", "--output", "pairs.json", "--workers", "0"]
    eval_retrieval.main(["--eval-mode", "my_benchmark.py:Pairs", *arguments])
    found = json.loads(Path("pairs.json").read_text())
    assert found["results"]["all"]["image"] == {"R@1": 0.0, "R@10": 100.0}
