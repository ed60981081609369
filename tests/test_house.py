"""The house: a module imports its own room and those below it, never above, and no module imports itself by a detour."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import plexus_tactus_cache

PACKAGE = "plexus_tactus_cache"
FLOORS = [  # from top to bottom; a room is a folder or a module
    ["__main__"],
    ["cli"],
    ["plexus"],
    ["conformance", "testing"],
    ["tactus"],
    ["__init__"],
    ["adapter", "cache"],
    ["sync"],
    ["remote"],
    ["store"],
    ["reconcile"],
    ["envelope"],
    ["document"],
    ["errors", "settings"],
    ["printable"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ALLOWED = {  # (who, whom): why
    ("adapter.py", "cache.py"): "the public API: an adapter opens the cache of its directory",
    ("cache.py", "adapter.py"): "the public API: a cache hands out adapters",
}
LONGEST = 400  # lines

ROOT = Path(plexus_tactus_cache.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}


def room_of(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def imported(source: str) -> Iterator[str]:
    """The dotted names of all imports: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import, of {node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def path_of(name: str, sources: Mapping[str, str]) -> str | None:
    """The module of the package that a dotted name is, or is in."""
    first, *inner = name.split(".")
    if first != PACKAGE:
        return None
    for end in range(len(inner), -1, -1):
        stem = "/".join(inner[:end])
        for path in (f"{stem}.py", f"{stem}/__init__.py".removeprefix("/")):
            if path in sources:
                return path
    raise AssertionError(f"{name} is imported, but not there")


def problems(sources: Mapping[str, str]) -> list[str]:
    """What is wrong with the house: imports that go up or sideways, and a circle if there is one."""
    edges = {(who, path_of(name, sources)) for who, source in sources.items() for name in imported(source)}
    inside = sorted((who, whom) for who, whom in edges if whom and (who, whom) not in ALLOWED)
    found = [
        f"{who} imports {whom}"
        for who, whom in inside
        if room_of(who) != room_of(whom) and FLOOR_OF[room_of(who)] >= FLOOR_OF[room_of(whom)]
    ]
    order = graphlib.TopologicalSorter[str]()
    for who, whom in inside:
        order.add(who, whom)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        found.append("a circle: " + " <- ".join(error.args[1]))
    return found


def test_no_import_goes_up_and_none_comes_round() -> None:
    assert problems(SOURCES) == []


SMALL = {
    "__init__.py": "from plexus_tactus_cache.cache import Cache",
    "cache.py": "from plexus_tactus_cache.store.rows import Rows",
    "store/__init__.py": "",
    "store/rows.py": "from plexus_tactus_cache.store import lines",
    "store/lines.py": "import plexus_tactus_cache.errors",
    "errors.py": "import json",
    "settings.py": "",
}


def test_a_small_house_without_faults() -> None:
    assert problems(SMALL) == []


@pytest.mark.parametrize(
    ("path", "line", "found"),
    [
        ("errors.py", "import plexus_tactus_cache.store.rows", "errors.py imports store/rows.py"),
        ("errors.py", "from plexus_tactus_cache import store", "errors.py imports store/__init__.py"),
        ("cache.py", "from plexus_tactus_cache import Cache", "cache.py imports __init__.py"),
        ("store/rows.py", "def f():\n    from plexus_tactus_cache.cache import C", "store/rows.py imports cache.py"),
        (
            "store/lines.py",
            "if TYPE_CHECKING:\n    from plexus_tactus_cache.cache import C",
            "store/lines.py imports cache.py",
        ),
        ("errors.py", "from plexus_tactus_cache.settings import Settings", "errors.py imports settings.py"),
        ("store/lines.py", "from plexus_tactus_cache.store.rows import Rows", "a circle: "),
        ("store/lines.py", "def f():\n    from plexus_tactus_cache.store import rows", "a circle: "),
        ("settings.py", "from plexus_tactus_cache.settings import Settings", "a circle: "),
    ],
)
def test_what_is_planted_is_found(path: str, line: str, found: str) -> None:
    planted = problems({**SMALL, path: f"{SMALL[path]}\n{line}\n"})
    assert any(problem.startswith(found) for problem in planted), planted


def test_every_exception_is_needed() -> None:
    for who, whom in ALLOWED:
        assert whom in {path_of(name, SOURCES) for name in imported(SOURCES[who])}


def test_no_module_is_long() -> None:
    assert {path: lines for path, text in SOURCES.items() if (lines := text.count("\n")) > LONGEST} == {}


@pytest.mark.parametrize("path", sorted(path for path in SOURCES if path.endswith("/__init__.py")))
def test_every_room_says_in_a_sentence_what_it_is(path: str) -> None:
    said = ast.get_docstring(ast.parse(SOURCES[path])) or ""
    sentence = " ".join(said.partition("\n\n")[0].split())  # an example may follow
    assert sentence.endswith(".")
    assert ". " not in sentence
