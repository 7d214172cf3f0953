"""The house: a room imports only rooms below it, no modules import each other in a circle, none is too long."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from command_line import ROOT

PACKAGE = ROOT / "guided_diffusion"
# Top to bottom; rooms of one line do not import each other. "" stands for the modules of the root.
FLOORS = [
    {"cli"},
    {"evaluation", "export", "benchmark"},
    {"generation"},
    {"training"},
    {"prepare"},
    {"diffusion"},
    {"networks"},
    {"data"},
    {""},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
}


def room(module: str) -> str:
    first = module.split(".")[0]
    return first if first in FLOOR else ""


def imports(module: str, top_level: bool = False) -> Iterator[str]:
    """The modules of the package that a module imports; top_level: when it is itself imported."""
    path = MODULES[module]
    tree = ast.parse(path.read_text())
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in tree.body if top_level else ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or (node.level == 0 and node.module.split(".")[0] != PACKAGE.name):
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        parts = base + (node.module or "").removeprefix(PACKAGE.name).strip(".").split(".") * bool(node.module)
        source = ".".join(part for part in parts if part)
        for alias in node.names:
            name = f"{source}.{alias.name}".lstrip(".")
            if (name if name in MODULES else source) in MODULES:
                yield name if name in MODULES else source


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_rooms_below_it(module: str) -> None:
    for other in imports(module):
        assert room(other) == room(module) or FLOOR[room(other)] > FLOOR[room(module)], other


def test_no_circles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in set(imports(module, top_level=True)) - {module}:
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
    assert done == set(MODULES)


def test_the_checker_sees_imports() -> None:
    assert {"networks.unet", "networks.nn", "config"} <= set(imports("networks.estimate"))
    assert "generation.api" in set(imports("cli.inference"))


def test_sizes() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > 400} == {}
    entries = {path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert len(entries - {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}) <= 20
