"""README and docs: commands and flags that exist, links that lead somewhere; what needs no download runs."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data/README.md", ROOT / "checkpoints/README.md"]
PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]  # tells of commands that are gone
# What a reader puts in, or has to fetch: CKPT, FILE, <run>, my_photos/, `…`, `owner/name`, the benchmarks, CC3M, a GPU.
NEEDS = re.compile(
    r"\b[A-Z][A-Z_]{2,}\b|…|<|\bmy[_-]|owner/|\bcc/|cc_data|cc3m|logs/|/disk/|ViT|openai|\.(jpg|pt|jsonl|toml)\b|sweep/"
    r"|--gpu|--serve|--before|cuda|host|cirr_test|fashion |all |prepare_|check_data|worktree|circo|icir|genecis|imgnet"
    r"|examples/"
)
COMMAND = re.compile(r"(\w+=\S+ )*(python|torchrun|context-i2w)")


def commands(page: Path) -> list[str]:
    """The indented commands of a page, continued lines joined, comments cut off."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    parts = [part.strip() for line in lines if COMMAND.match(line) for part in re.split(r"\s{2,}#|\s&&\s", line)]
    return [part for part in parts if COMMAND.match(part)]


ALL = sorted({command for page in PAGES for command in commands(page)})
RUNNING = [command for command in ALL if not NEEDS.search(command) and " -m " not in command]


@functools.cache
def usage(script: str) -> str:
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{script}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("command", [command for command in ALL if ".py" in command and " -m " not in command])
def test_commands_and_their_flags_exist(command):
    script = re.search(r"\S+\.py", command)[0]
    assert (ROOT / script).is_file()
    flags = re.findall(r"(?<!\S)--[a-z][a-z-]+", command.partition(".py")[2])
    assert [flag for flag in flags if not re.search(rf"{flag}\b", usage(script))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    named = re.findall(r"`((?:src|scripts|tests|docs)/[\w./-]+)(?:::\w+)?`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNNING)
def test_commands_without_a_download_run_as_written(command, here):
    done = subprocess.run(["bash", "-c", command], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The repository as a reader has it: what commands write stays out of ours."""
    folder = tmp_path_factory.mktemp("clone")
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    return folder
