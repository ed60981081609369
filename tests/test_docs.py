"""The pages: what they name is there, so that a renamed module is missed here and not by a reader."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_house import FLOOR_OF, ROOT, SOURCES, room_of

from plexus_tactus_cache.cli import main

HERE = Path(__file__).parents[1]
PAGES = {path.relative_to(HERE).as_posix(): path for path in [*HERE.glob("*.md"), *HERE.glob("docs/*.md")]}
INSIDE = ["docs/contributing.md", "docs/how-it-works.md"]  # about the code, not about its use
OF_READERS = {"test_outage.py"}  # what a page tells its readers to make
OF_OTHERS = {"Procedure.metadata", "pytest.importorskip"}

TARGETS = re.findall(r"^([a-z0-9-]+):", (HERE / "Makefile").read_text(), flags=re.MULTILINE)
TREES = [ast.parse(source) for source in SOURCES.values()]
CODE = "\n".join(
    [*SOURCES.values(), *(path.read_text() for path in HERE.glob("tests/**/*.py") if path != Path(__file__))]
)
WORDS = set(re.findall(r"\w+", CODE))

FENCE = re.compile(r"^```\w*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def spans(page: str) -> list[str]:
    """What is in single backticks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text_of(page)))


def code(page: str) -> list[str]:
    """What is in backticks of either kind."""
    return spans(page) + FENCE.findall(text_of(page))


def paths(page: str) -> Iterator[str]:
    """The files that a page names, and the folders."""
    for one in spans(page):
        if re.fullmatch(r"[\w./-]+(\.(py|md|toml|graphql)|/)|\.ci/\w+", one):
            yield one
    for block in FENCE.findall(text_of(page)):
        yield from re.findall(r"[\w./-]+\.py\b|(?<![\w/])[a-z_]+/(?:[a-z_]+/)*(?=\s)", block)


def members() -> set[str]:
    """`Class.name` of all that the package's classes define, with what they inherit from classes of the package."""
    classes = {node.name: node for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}

    def names(node: ast.ClassDef) -> set[str]:
        found = {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
        found |= {
            str(one.target.id)
            for one in node.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        }
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                found |= names(classes[base.id])
        return found

    return {f"{name}.{member}" for name, node in classes.items() for member in names(node)}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_file_and_folder_is_there(page: str) -> None:
    roots = (HERE, ROOT) if page in INSIDE else (HERE,)
    named = set(paths(page)) - OF_READERS
    assert sorted(one for one in named if not any((root / one).exists() for root in roots)) == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_link_leads_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)) if "://" not in link]
    assert [link for link in links if not (PAGES[page].parent / link.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_target_is_in_the_makefile(page: str) -> None:
    named = {target for one in code(page) for target in re.findall(r"\bmake ([a-z][a-z0-9-]*)", one)}
    assert named - set(TARGETS) == set()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_command_is_one(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in {name for one in code(page) for name in re.findall(r"\bplexus-tactus-cache ([a-z]+)", one)}:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", INSIDE)
def test_every_name_is_one_of_the_code(page: str) -> None:
    named = {one for one in spans(page) if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)?", one)} - set(paths(page))
    dotted = {one for one in named if "." in one} - OF_OTHERS
    assert sorted(dotted - members()) == []
    assert sorted(one for one in named if "." not in one and one not in WORDS) == []


def test_the_rooms_are_listed_from_top_to_bottom() -> None:
    table = text_of("docs/contributing.md").partition("| room |")[2].partition("\n\n")[0]
    cells = [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    listed = [room_of(name) for cell in cells for name in cell]
    assert [FLOOR_OF[room] for room in listed] == sorted(FLOOR_OF[room] for room in listed)
    assert sorted(listed) == sorted(FLOOR_OF)


@pytest.mark.parametrize("page", INSIDE)
def test_these_pages_name_what_is_checked(page: str) -> None:
    """A pattern that matches nothing would find everything right."""
    assert len(set(paths(page))) > 15
    assert {"docs/contributing.md": "Store.write", "docs/how-it-works.md": "Pushes.prepare"}[page] in spans(page)
