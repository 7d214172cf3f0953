"""The house: a room imports only rooms below it, no modules import each other in a circle, none is too long."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name

import pytest
from command_line import ROOT

PACKAGE = ROOT / "guided_diffusion"
# Top to bottom; rooms between two ">" do not import each other.
FLOORS = "cli > evaluation export page > generation > training > prepare > diffusion > networks > data > root"
FLOOR = {room: number for number, rooms in enumerate(FLOORS.split(" > ")) for room in rooms.split()}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
}


def room(module: str) -> str:
    first = module.split(".")[0]
    return first if first in FLOOR else "root"


def imports(module: str, top_level: bool = False) -> Iterator[str]:
    """The modules of the package that a module imports; top_level: when it is itself imported."""
    path = MODULES[module]
    tree = ast.parse(path.read_text())
    package = ".".join(path.parent.relative_to(ROOT).parts)
    for node in tree.body if top_level else ast.walk(tree):
        assert not isinstance(node, ast.Import) or not any(a.name.startswith(PACKAGE.name) for a in node.names)
        if not isinstance(node, ast.ImportFrom):
            continue
        source = resolve_name("." * node.level + (node.module or ""), package)
        for name in (f"{source}.{alias.name}" for alias in node.names):
            found = {name.partition(".")[2], source.partition(".")[2]} & set(MODULES)
            if source.partition(".")[0] == PACKAGE.name and found:
                yield max(found, key=len)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_rooms_below_it(module: str) -> None:
    for other in imports(module):
        assert room(other) == room(module) or FLOOR[room(other)] > FLOOR[room(module)], other


def test_no_circles() -> None:
    graph = {module: set(imports(module, top_level=True)) - {module} for module in MODULES}
    assert set(TopologicalSorter(graph).static_order()) == set(MODULES)


def test_sizes() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > 400} == {}
    entries = {path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert len(entries - {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}) <= 20
