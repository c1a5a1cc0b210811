"""The Python of docs/integrations.md runs as it stands there."""

import re
from pathlib import Path

import pytest
from tests.search.test_retriever import draw

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:(?<=\n)(?:    .*)?\n)+", PAGE)
SNIPPETS = [code for code in (re.sub("^    ", "", block, flags=re.M).strip() for block in BLOCKS) if "import " in code]


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: re.search(r"import (\w+)", code)[1])
def test_snippet(code, tmp_path, monkeypatch):
    for library in ("sentence_transformers", "mteb"):
        if re.search(rf"^(from|import) {library}", code, re.M):
            module = pytest.importorskip(library)
            if library == "mteb":  # its tasks' data are downloads
                monkeypatch.setattr(module, "evaluate", lambda model, tasks: None)
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photos" / "a.png", 1)
    draw(tmp_path / "photos" / "b.png", 2)
    exec(compile(code, "docs/integrations.md", "exec"), {})


def test_there_are_three():
    assert len(SNIPPETS) == 3
