"""The notebook runs from top to bottom, without network."""

import json
from pathlib import Path

TOUR = Path(__file__).parents[2] / "examples/tour.ipynb"


def test_tour(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cells = [cell for cell in json.loads(TOUR.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    names = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    printed = {word for line in capsys.readouterr().out.splitlines() for word in line.split()[:1]}
    assert {"image+text", "composed", "blended:0.7:0.65"} <= printed
    assert len(names["hits"]) == 6
