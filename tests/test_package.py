"""What pip installs: the wheel's files and commands, what it declares, and what a search does without."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Where the package is not called as it is imported.
NAMES = {"PIL": "pillow", "open_clip": "open_clip_torch", "faiss": "faiss-cpu", "pillow_heif": "pillow-heif"}
NAMES |= {"sentence_transformers": "sentence-transformers"}
BY_HAND = {"wandb", "spacy"}  # asked for by name, with a line that says how to install them


def names(requirements) -> set[str]:
    return {re.match(r"[\w.-]+", line)[0] for line in requirements}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of the tracked files alone, so that nothing is left in the working tree."""
    place = tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "src/context_i2w", "pyproject.toml", "LICENSE", PROJECT["readme"]]
    tracked = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]
    for name in tracked:
        (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "tree" / name).write_bytes((ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        place,
        "./tree",
    ]
    subprocess.run(build, cwd=place, check=True, env={**os.environ, "PYTHONPATH": ""})
    [built] = place.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(place / "installed")
    return place / "installed", {name.removeprefix("src/") for name in tracked if name.startswith("src/")}


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    folder, tracked = wheel
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in held if ".dist-info/" not in name} == tracked
    assert {"toy_clip.safetensors", "mapper.safetensors", "page.html", "py.typed"} <= {
        Path(name).name for name in tracked
    }


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_commands_of_the_wheel_explain_themselves_by_their_own_names(wheel, command, tmp_path):
    folder, _ = wheel
    points = ConfigParser()
    points.optionxform = str
    points.read(next(folder.glob("*.dist-info")) / "entry_points.txt")
    module, function = points["console_scripts"][command].split(":")
    code = f"import sys; sys.argv[0] = {command!r}; from {module} import {function} as main; main()"
    run = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, "-c", code, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True, text=True,
    )  # fmt: skip
    shown = run("--help").stdout
    assert shown.startswith(f"usage: {command} ")
    assert "python src/" not in shown
    wrong = run("--nonsense")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert f"`{command} --help`" in wrong.stderr


def test_every_import_is_declared():
    """By the package, by an extra, or by the line that an absent one is answered with."""
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    outside = {NAMES.get(name, name) for name in imported - sys.stdlib_module_names - {"context_i2w", "tomllib"}}
    declared = names(PROJECT["dependencies"]) | set().union(*map(names, EXTRAS.values()))
    assert outside - BY_HAND <= declared
    assert names(PROJECT["dependencies"]) <= outside  # and nothing that is not used


def test_requirements_txt_installs_all_that_running_needs():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = {line.replace('"', "'") for line in lines if line and not line.startswith("#")}
    assert asked == {*PROJECT["dependencies"], *EXTRAS["train"], "pandas>=2.1"}


WITHOUT = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None  # its import fails as if it were not installed
import context_i2w.demo.run, context_i2w.evaluation.run, context_i2w.search.retriever
from context_i2w.data.shard_files import expand_shards
from context_i2w.errors import UserError
for work in (lambda: __import__("context_i2w.training.run"), lambda: expand_shards("{0..3}.tar")):
    try:
        work()
    except UserError as error:
        print(error)
"""


def test_a_search_and_an_evaluation_do_without_the_extras(tmp_path):
    absent = [*names(EXTRAS["train"]), "pandas", "pyarrow", "faiss", "pillow_heif"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *absent], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    remedy = "is not installed; the extra 'train' brings it: `pip install \"context-i2w[train]\"`"
    assert [line.split(", in a clone")[0] for line in done.stdout.splitlines()] == [
        f"tensorboard {remedy}",
        f"braceexpand {remedy}",
    ]
