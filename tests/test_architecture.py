"""The house keeps its plan: what imports what, how long functions are, what stands at the top of the package."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "context_i2w"
# Each imports only what stands after it.
LAYERS = [
    "demo",
    "ablation",
    "search",
    "training",
    "evaluation",
    "toy_world",
    "preparation",
    "benchmarks",
    "checkpoints",
    "data",
    "model",
    "ranking",
    "files",
    "distributed",
    "command_line",
    "errors",
]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "src").rglob("*.py"))}


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): tree for path, tree in TREES.items() if PACKAGE in path.parents}


def imports(name: str) -> set[str]:
    """The package's modules that a module's import lines name, those inside functions too."""
    named = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import hides where it leads"
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            named |= {member if member in MODULES else node.module for member in members}
    return {other for other in named if other in MODULES and other != name}


# Not the package's own __init__: it imports a name of the API only when it is asked for.
GRAPH = {name: imports(name) - {"context_i2w"} for name in MODULES if name != "context_i2w"}


def test_nothing_imports_what_stands_above_it():
    layer = {name: LAYERS.index(name.split(".")[1]) for name in GRAPH}
    upward = [f"{name} imports {other}" for name in GRAPH for other in GRAPH[name] if layer[other] < layer[name]]
    assert upward == []


def test_no_module_imports_itself_by_way_of_others():
    assert list(TopologicalSorter(GRAPH).static_order())  # CycleError names the cycle


def top_entries() -> list[str]:
    return sorted(path.name for path in PACKAGE.iterdir() if path.name != "__pycache__")


def test_the_top_of_the_package_is_a_table_of_contents():
    assert len(top_entries()) <= 18
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## The house\n")[2].partition("\n## ")[0]
    described = {line.split()[0].rstrip("/") for line in tree.splitlines() if len(line.split()) > 2}
    assert set(top_entries()) - {"__init__.py", "py.typed"} <= described


def test_functions_are_short():
    functions = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in functions)
    assert lengths[int(0.95 * len(lengths))] <= 25
