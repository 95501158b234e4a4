"""The imports of the three packages as a graph: for the tests of the structure and the picture in the documentation."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("engines", "export", "retina_edge")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Return the dotted names of the modules that a file imports when it runs, also inside functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return  # for type checkers only
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(found)


def packages_of(path: Path) -> set[str]:
    """Return the top-level names of everything that a file imports."""
    return {name.partition(".")[0] for name in imports_of(path)}


def module_of(path: Path) -> str:
    """Return the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def arrows() -> dict[str, set[str]]:
    """Return the modules of this project that each module imports."""
    modules = {module_of(path) for path in SOURCES}

    def target(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    return {module_of(path): {t for name in imports_of(path) if (t := target(name))} for path in SOURCES}


def room_of(module: str) -> str:
    """Return the folder of a module; a module at the top of retina_edge or export is a room of its own."""
    folder = module.rpartition(".")[0]
    is_package = (ROOT / module.replace(".", "/")).is_dir()
    return module if is_package or folder in ("retina_edge", "export") else folder


def room_arrows() -> dict[str, set[str]]:
    """Return the rooms that each room imports, without itself."""
    rooms: dict[str, set[str]] = {}
    for module, targets in arrows().items():
        rooms.setdefault(room_of(module), set()).update(room_of(target) for target in targets)
    return {room: targets - {room} for room, targets in rooms.items()}
