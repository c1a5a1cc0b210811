"""docs/extending.md: its files, outside the repository, through everything that our own mappers go through."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import torch

import demo
import eval_retrieval
import main
import share_mapper
from context_i2w.checkpoints.files import read_checkpoint
from context_i2w.demo.options import parse_demo
from context_i2w.demo.run import prepared
from context_i2w.demo.server import Demo, serve
from context_i2w.distributed import Process
from context_i2w.errors import UserError
from context_i2w.toy_world.pairs import FOLDER, TRAINING_LIST

ROOT = Path(__file__).parents[1]
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL))


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
ARGUMENTS += ["--epochs", "2", "--warmup", "1", "--lr", "1e-2", "--device", "cpu", "--workers", "0"]
ARGUMENTS += ["--pretrained", "toy"]


@pytest.fixture(scope="module")
def here(tmp_path_factory, mini_world):
    """The working folder of this module, with the document's files and a miniature toy world."""
    here = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        (here / name).write_text(text)
    world = shutil.copytree(mini_world, here / "data" / "toy") / FOLDER
    lines = (world / TRAINING_LIST).read_text().splitlines(keepends=True)
    (world / "few.tsv").write_text("".join(lines[:33]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr("multiprocessing.process.ORIGINAL_DIR", str(here))  # where a started process begins
        yield here


@pytest.fixture(scope="module")
def run(here):
    """Two epochs of mapper and objective in two processes."""
    main.main([*ARGUMENTS, "--processes", "2", "--batch-size", "8", "--name", "run"])
    return here / "logs" / "run"


@pytest.fixture(scope="module")
def whole(here):
    """The last state of the same in one process."""
    main.main([*ARGUMENTS, "--batch-size", "16", "--name", "one"])
    return torch.load("logs/one/checkpoints/last.pt", weights_only=True)


@pytest.fixture
def nothing_trusted(monkeypatch):
    """As in a process that has imported no code of others yet."""
    monkeypatch.setattr("context_i2w.model.extensions._imported", set())


def test_each_file_is_short():
    assert {"my_mapper.py", "my_objective.py", "my_benchmark.py"} <= FILES.keys()
    assert all(len(text.splitlines()) <= 40 for text in FILES.values())


def test_two_processes_learn_as_one(run, whole):
    """The objective's scale and bias too, which every process computes on the whole batch."""
    two = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    learned = whole["training"]["objective"]
    assert learned["loss.logit_scale"] != torch.tensor(2.3)
    for name, value in learned.items():
        assert two["training"]["objective"][name] == pytest.approx(float(value), abs=1e-4), name
    for name, value in whole["mapper"]["state"].items():
        assert torch.allclose(two["mapper"]["state"][name], value, atol=1e-3), name


def test_it_resumes_exactly_with_consent(whole, nothing_trusted, capsys):
    first = "logs/one/checkpoints/epoch_1.pt"
    with pytest.raises(SystemExit) as refused:
        main.main(["--resume", first, "--device", "cpu"])
    assert refused.value.code == 2
    assert "would be imported" in capsys.readouterr().err
    main.main(["--resume", first, "--trust-code", "--device", "cpu"])
    again = torch.load("logs/one/checkpoints/last.pt", weights_only=True)
    for part, state in (("mapper", "state"), ("training", "objective")):
        assert all(torch.equal(value, again[part][state][name]) for name, value in whole[part][state].items())


def test_it_is_evaluated_and_shared(here, run, shared):
    arguments = ["--eval-mode", "cirr", "--data-root", "data/toy/test", "--device", "cpu", "--output", "cirr.json"]
    eval_retrieval.main([*arguments, "--resume", str(run), "--trust-code"])
    assert "R@1" in json.loads(Path("cirr.json").read_text())["results"]["all"]["composed"]
    code = (
        "from context_i2w import Retriever; r = Retriever.load('../shared', device='cpu', trust_code=True); "
        "print(r.mapper_name, r.mapper.options.hidden)"
    )
    (here / "elsewhere").mkdir()
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=here / "elsewhere", capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["my_mapper.py:Pooling", "32"]


@pytest.fixture(scope="module")
def shared(here, run):
    share_mapper.main(["--resume", str(run), "--output", "shared", "--trust-code"])
    return here / "shared"


def test_it_answers_behind_the_pages_server_with_consent(here, shared, nothing_trusted, capsys):
    words = ["--resume", str(shared), "--images", "data/toy/test/imgnet", "--cache", "cache", "--device", "cpu"]
    with pytest.raises(SystemExit) as refused:
        demo.main([*words, "--serve"])
    assert refused.value.code == 2
    error = capsys.readouterr().err
    assert "would be imported" in error
    assert error.count("\n") == 1
    settings = parse_demo([*words, "--trust-code"], "")
    engine = prepared(settings, Process())
    server = serve(Demo(engine, []), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    name, description = engine.index.names[0], "a photo of [*] at night"
    question = json.dumps({"name": name, "description": description, "k": 3, "explain": False}).encode()
    try:
        asked = Request(f"http://127.0.0.1:{server.server_address[1]}/search", question, {"X-Context-I2W": "1"})
        (row,) = json.load(urlopen(asked, timeout=60))["rows"]
    finally:
        server.shutdown()
        server.server_close()
    assert row["title"] == "Pooling"
    found = engine.index.search(engine.index.path(name), description, k=3)
    assert [hit["name"] for hit in row["hits"]] == [hit.name for hit in found]


def test_a_strangers_code_is_not_imported(tmp_path, run):
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    (tmp_path / "theirs.py").write_text("open('marker', 'w')\n")
    content["mapper"]["name"] = "theirs.py:Pooling"
    torch.save(content, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=r"theirs\.py, which would be imported"):
        read_checkpoint(tmp_path / "theirs.pt")
    with pytest.raises(UserError, match="no Pooling in it; there are no classes"):
        read_checkpoint(tmp_path / "theirs.pt", trust_code=True)


def test_a_benchmark_of_ones_own(here):
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
