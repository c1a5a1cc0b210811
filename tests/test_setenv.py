"""setenv.sh in bash and, where there is one, zsh; pip is replaced by a stand-in that only keeps a log."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELLS = [shell for shell in ("bash", "zsh") if shutil.which(shell)]
FAKE_PIP = """
import os, sys
with open(os.environ["PIP_CALLS"], "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if "install" in sys.argv and os.environ.get("PIP_TROUBLE"):
    sys.exit(os.environ["PIP_TROUBLE"])
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment without pip, made once."""
    place = tmp_path_factory.mktemp("made") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    return place


@pytest.fixture
def project(tmp_path, environment):
    """A project folder, with a blank in its name, whose .venv has the stand-in for pip."""
    folder = tmp_path / "the project"
    folder.mkdir()
    for name in ("setenv.sh", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(environment, folder / ".venv", symlinks=True)
    activate = folder / ".venv" / "bin" / "activate"
    activate.write_text(activate.read_text().replace(str(environment), str(folder / ".venv")))
    site = next((folder / ".venv" / "lib").glob("python*/site-packages"))
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(FAKE_PIP)
    return folder


def source(shell, project, commands="", **variables):
    """Sources setenv.sh from the folder above, then runs `commands` in the same shell."""
    script = f"source 'the project/setenv.sh'; echo status $?; {commands}"
    variables = {"PIP_CALLS": str(project / "calls"), **variables}
    clean = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")}
    return subprocess.run(
        [shutil.which(shell), "-c", script], cwd=project.parent, env=clean | variables, capture_output=True, text=True
    )


def calls(project):
    return (project / "calls").read_text().count("install ")


@pytest.mark.parametrize("shell", SHELLS)
def test_installs_once_and_activates(shell, project):
    look = 'echo "at $PWD"; echo "in $VIRTUAL_ENV"; command -v python'
    for expected_calls in (2, 2):
        done = source(shell, project, look)
        assert done.stdout.splitlines() == [
            "status 0",
            f"at {project.parent}",
            f"in {project / '.venv'}",
            str(project / ".venv" / "bin" / "python"),
        ]
        assert calls(project) == expected_calls
    assert done.stderr == ""
    with (project / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    source(shell, project)
    assert calls(project) == 4


@pytest.mark.parametrize("shell", SHELLS)
def test_leaves_nothing_behind(shell, project):
    listing = "typeset -f _context_i2w_setenv; echo root=$root log=$log python=$python options=$-"
    before = subprocess.run([shutil.which(shell), "-c", "echo $-"], capture_output=True, text=True).stdout.strip()
    assert source(shell, project, listing).stdout.splitlines()[-1] == f"root= log= python= options={before}"
    strict = f"set -eu; source '{project}/setenv.sh'; echo alive"
    done = subprocess.run(
        [shutil.which(shell), "-c", strict], env=os.environ | {"PIP_CALLS": "/dev/null"}, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("alive\n", 0)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("ERROR: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: Retrying after connection broken by NewConnectionError", "no network to the package index"),
        ("note: a\nERROR: no such package\nnote: b", "ERROR: no such package"),
    ],
)
def test_a_failed_install_is_one_line_and_is_done_again(shell, project, trouble, words):
    done = source(shell, project, "echo alive", PIP_TROUBLE=trouble)
    assert done.stdout.splitlines() == ["status 1", "alive"]
    announced, failed = done.stderr.splitlines()
    assert announced.startswith("setenv: installing packages")
    assert failed.startswith("setenv: installing the packages failed: ")
    assert words in failed
    assert not (project / ".venv" / ".installed").exists()
    assert (project / ".venv" / ".unfinished").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_no_python_is_one_line(shell, project, tmp_path):
    shutil.rmtree(project / ".venv")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "cat", "grep", "tail"):
        (tools / name).symlink_to(shutil.which(name))
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = source(shell, project, "echo alive", PATH=str(tools))
    assert done.stdout.splitlines() == ["status 1", "alive"]
    assert done.stderr.startswith("setenv: no Python 3.10 or newer")
    assert done.stderr.count("\n") == 1


def test_running_it_says_to_source_it(project):
    done = subprocess.run(["bash", project / "setenv.sh"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("setenv: source this file instead of running it")
