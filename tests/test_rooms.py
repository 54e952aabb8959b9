"""Imports run one way: each package says in its docstring what it may import, and imports nothing else of ours."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVERYWHERE = {"display", "errors", "files", "findings", "foreign", "host", "lock", "random", "versions"}
"""Small modules that import nothing but each other, and that everybody may import."""


def packages() -> dict[str, Path]:
    """Name -> folder of each package."""
    rooms = {f"{folder.parent.name}.{folder.name}": folder for folder in (ROOT / "data_prep").iterdir()}
    rooms |= {folder.name: folder for folder in (ROOT / "bridgetower_train").iterdir()}
    return {name: folder for name, folder in sorted(rooms.items()) if (folder / "__init__.py").is_file()}


def modules() -> dict[str, Path]:
    """The same for single files beside the packages."""
    files = [*(ROOT / "bridgetower_train").glob("[a-z]*.py"), *(ROOT / "data_prep").glob("[a-z]*.py")]
    return {file.stem if file.parent.name == "bridgetower_train" else f"data_prep.{file.stem}": file for file in files}


def room_of(module: str) -> str:
    """The package, or the file beside the packages, to which a module of ours belongs."""
    top, *rest = module.split(".")
    room = rest[0] if rest else top
    return f"data_prep.{room}" if top == "data_prep" and rest else room


def imports(files: Iterator[Path]) -> set[str]:
    """Rooms that some files import."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                whole = node.module.count(".") > 0
                names = [node.module] if whole else [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {room_of(name) for name in names if name.split(".")[0] in ("bridgetower_train", "data_prep")}
    return found


@cache
def drawn() -> dict[str, set[str]]:
    """Room -> the rooms that it imports."""
    arrows = {name: imports(folder.rglob("*.py")) - {name} for name, folder in packages().items()}
    return arrows | {name: imports(iter([file])) - {name} for name, file in modules().items()}


def allowed(folder: Path) -> set[str]:
    """What the docstring of a package says that it may import."""
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    said = re.search(r"May import (.+?)\.(?:\s|$)", docstring.replace("\n", " "))
    assert said, f"{folder}/__init__.py: its docstring does not say what it may import ('May import a, b and c.')"
    return set(re.split(r",\s*|\s+and\s+", said[1])) - {"nothing"} | EVERYWHERE


@pytest.mark.parametrize("name", packages())
def test_a_package_imports_what_its_docstring_says(name: str):
    found = drawn()[name] - EVERYWHERE
    said = allowed(packages()[name]) - EVERYWHERE
    assert found <= said, f"new arrows from {name}"
    assert said <= found, f"{name} no longer imports these"


def test_no_arrow_leads_back_up():
    list(TopologicalSorter(drawn()).static_order())


def test_small_modules_import_only_each_other():
    for name in EVERYWHERE:
        assert drawn()[name] <= EVERYWHERE, name


def test_rooms_are_of_a_size_that_one_can_overlook():
    for name, folder in packages().items():
        most = 12 if name.startswith("data_prep.") else 16
        assert len([f for f in folder.glob("*.py") if f.stem != "__init__"]) <= most, name
