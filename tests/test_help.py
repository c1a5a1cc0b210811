"""Every command explains its options at once, without torch, and refuses nonsense in one line."""

import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from context_i2w.command_line import Options, option, parse

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("src", "scripts", "scripts/measure", "scripts/toy_clip")
    for path in (ROOT / folder).glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)
# Runs a command and says which slow modules it imported.
RUN = """
import atexit, runpy, sys
slow = {"torch", "open_clip", "pandas", "matplotlib"}
atexit.register(lambda: print("slow imports:", sorted(slow & sys.modules.keys())))
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option_at_once(command):
    """Without torch, which the package must come before: it tells torch's waiting threads to sleep."""
    done = subprocess.run([sys.executable, "-c", RUN, command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python " + command)
    assert done.stdout.endswith("slow imports: []\n")
    assert "--config FILE" in done.stdout


NONSENSE = {
    "scripts/ablate.py": "grid.toml --output x --seeds 0",
    "scripts/check_data.py": "nothing",
    "scripts/compare.py": "a b --rows one --metrics R@1",
    "scripts/measure/benchmark.py": "--only nothing",
    "scripts/measure/input.py": "--images 0",
    "scripts/mask_captions.py": "list.csv --processes -1",
    "scripts/prepare_cc3m.py": "download --threads 0",
    "scripts/prepare_coco.py": "--seed -1",
    "scripts/prepare_imagenet.py": "--copy",
    "scripts/reproduce.py": "--resume x --workers -1",
    "scripts/share_mapper.py": "--half",
}


@pytest.mark.parametrize(("command", "words"), NONSENSE.items())
def test_nonsense_is_refused_in_one_line(command, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, *words.split()])
    monkeypatch.syspath_prepend(str((ROOT / command).parent))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / command), run_name="__main__")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert f"`python {command} --help`" in error


def test_a_config_holds_paths_and_lists_as_flags_do(tmp_path):
    @dataclass(frozen=True)
    class Outputs(Options):
        output: Path | None = option(None, "where it goes")
        parts: tuple[Path, ...] = option((), "what it is made of")
        seeds: tuple[int, ...] = option((0,), "of the runs")

    (tmp_path / "c.toml").write_text('output = "a.json"\nparts = ["b", "c"]\nseeds = 3\n')
    asked = parse(Outputs, ["--config", str(tmp_path / "c.toml")], prog="x", description="")
    assert asked == Outputs(Path("a.json"), (Path("b"), Path("c")), (3,))
