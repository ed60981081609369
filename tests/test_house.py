"""The house: who imports whom, and what the pure rooms keep out of; each in whatever form it is written."""

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
    ["conformance", "testing"],
    ["tactus"],
    ["__init__"],
    ["adapter", "cache"],
    ["forking"],
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
LAZILY = {"testing/__init__.py"}  # imports by a computed name, of its own room
KNOW_THE_STORE = {"adapter.py", "cache.py", "cli/common.py", "cli/doctor.py"}  # outside of `store/`: which store it is
KNOW_TACTUS = {"tactus", "conformance"}
LONGEST = 400  # lines

PURE = {"document", "envelope", "reconcile"}  # no I/O, no clock, no threads, no chance
OF_PURE = {
    *("__future__", "collections", "dataclasses", "enum", "functools", "itertools", "operator", "re", "typing"),
    *("base64", "copy", "datetime", "decimal", "hashlib", "marshal", "math", "orjson", "pydantic", "sys", "uuid"),
}
IMPURE = {"open", "print", "input", "now", "utcnow", "today", "uuid1", "uuid4", "stdin", "stdout", "stderr", "argv"}
BY_NAME = {"import_module", "__import__", "resolve_name", "run_module", "run_path", "exec", "eval"}

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


def names_in(source: str) -> set[str]:
    """What a module has from elsewhere: builtins, attributes, and what it imports, whatever it calls that."""
    nodes = list(ast.walk(ast.parse(source)))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom | ast.Import)]
    return (used - own) | attributes | {alias.name for node in imports for alias in node.names}


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
    found += [
        f"{who} imports {whom}, and should not know which store it is" for who, whom in inside if knows(who, whom)
    ]
    for who, source in sources.items():
        rest = {name.partition(".")[0] for name in imported(source) if not name.startswith("urllib.parse.")} - {PACKAGE}
        if "tactus" in rest and room_of(who) not in KNOW_TACTUS:
            found.append(f"{who} imports tactus")
        if room_of(who) in PURE:
            found += [f"{who} is pure, and imports {name}" for name in sorted(rest - OF_PURE)]
            found += [f"{who} is pure, and uses {name}" for name in sorted(names_in(source) & IMPURE)]
        if who not in LAZILY:
            found += [f"{who} imports by name: {name}" for name in sorted(names_in(source) & BY_NAME)]
    order = graphlib.TopologicalSorter[str]()
    for who, whom in inside:
        order.add(who, whom)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        found.append("a circle: " + " <- ".join(error.args[1]))
    return found


def knows(who: str, whom: str) -> bool:
    return whom.startswith("store/local/") and room_of(who) != "store" and who not in KNOW_THE_STORE


def test_the_house_is_in_order() -> None:
    assert problems(SOURCES) == []


def test_the_rooms_are_those_that_there_are() -> None:
    assert {room_of(path) for path in SOURCES} == FLOOR_OF.keys()
    assert {path.parent for path in ROOT.rglob("*.py*") if path.suffix != ".pyc"} == {
        path.parent for path in ROOT.rglob("__init__.py")
    }
    assert not list(ROOT.rglob("*.pyi"))


SMALL = {
    "__init__.py": "from plexus_tactus_cache.cache import Cache",
    "cache.py": "from plexus_tactus_cache.store.rows import Rows",
    "store/__init__.py": "",
    "store/rows.py": "from plexus_tactus_cache.store import lines",
    "store/lines.py": "import plexus_tactus_cache.errors",
    "store/local/__init__.py": "",
    "document/__init__.py": "import re",
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
        ("cache.py", "from importlib import import_module as load", "cache.py imports by name: import_module"),
        ("cache.py", "def f():\n    return __import__('a')", "cache.py imports by name: __import__"),
        ("cache.py", "exec('import a')", "cache.py imports by name: exec"),
        ("cache.py", "import runpy\nrunpy.run_module('a')", "cache.py imports by name: run_module"),
        ("store/rows.py", "def f():\n    import tactus.core", "store/rows.py imports tactus"),
        (
            "__init__.py",
            "from plexus_tactus_cache.store.local import A",
            "__init__.py imports store/local/__init__.py, and",
        ),
        ("document/__init__.py", "def f():\n    import time as t", "document/__init__.py is pure, and imports time"),
        ("document/__init__.py", "from threading import Lock", "document/__init__.py is pure, and imports threading"),
        ("document/__init__.py", "x = open('a')", "document/__init__.py is pure, and uses open"),
        ("document/__init__.py", "x = dt.datetime.now()", "document/__init__.py is pure, and uses now"),
        ("document/__init__.py", "from uuid import uuid4 as f", "document/__init__.py is pure, and uses uuid4"),
    ],
)
def test_what_is_planted_is_found(path: str, line: str, found: str) -> None:
    planted = problems({**SMALL, path: f"{SMALL[path]}\n{line}\n"})
    assert any(problem.startswith(found) for problem in planted), planted


def test_every_exception_is_needed() -> None:
    for who, whom in ALLOWED:
        assert whom in {path_of(name, SOURCES) for name in imported(SOURCES[who])}


def test_no_module_is_long() -> None:
    assert {path: lines for path, text in SOURCES.items() if (lines := len(text.splitlines())) > LONGEST} == {}


@pytest.mark.parametrize("path", sorted(path for path in SOURCES if path.endswith("/__init__.py")))
def test_every_room_says_in_a_sentence_what_it_is(path: str) -> None:
    said = ast.get_docstring(ast.parse(SOURCES[path])) or ""
    sentence = " ".join(said.partition("\n\n")[0].split())  # an example may follow
    assert sentence.endswith(".")
    assert ". " not in sentence
    assert len(sentence.split()) > 5
