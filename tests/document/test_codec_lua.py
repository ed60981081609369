"""Lua tables, which belong to one runtime, as values that do not."""

from __future__ import annotations

from typing import Any

import pytest

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoding import encode, encode_leniently, holds_lua, is_lua_table
from plexus_tactus_cache.document.plain import Encoded, fingerprint
from plexus_tactus_cache.errors import ValueNotSerializable

from .values import read_back, same, through_plexus

lupa = pytest.importorskip("lupa")


@pytest.fixture
def lua() -> Any:
    return lupa.LuaRuntime()


TABLES = [
    ("{}", {}),
    ("{1, 2, 3}", [1, 2, 3]),
    ("{1.0, 1.5, 'x', true}", [1.0, 1.5, "x", True]),
    ("{a = 1, b = {c = {4, 5}}}", {"a": 1, "b": {"c": [4, 5]}}),
    ("{1, 2, x = 3}", {1: 1, 2: 2, "x": 3}),
    ("{[1] = 'a', [3] = 'c'}", {1: "a", 3: "c"}),
    ("{[0] = 'z', 'a'}", {0: "z", 1: "a"}),
    ("{[2] = 'b', [1] = 'a'}", ["a", "b"]),
    ("{[-1] = 1}", {-1: 1}),
    ("{[1.5] = 1, ['1.5'] = 2}", {1.5: 1, "1.5": 2}),
    ("{[true] = 1, ['true'] = 2}", {True: 1, "true": 2}),
    ("{['1'] = 'text', [1] = 'number'}", {"1": "text", 1: "number"}),
    ("{{}, {{}}}", [{}, [{}]]),
    ("{['a/b'] = {['~'] = 1.0, ['#keys'] = {[5] = 6}}}", {"a/b": {"~": 1.0, "#keys": {5: 6}}}),
    ("{1/0, -1/0}", [float("inf"), float("-inf")]),
]


@pytest.mark.parametrize(("source", "value"), TABLES)
def test_tables_become_lists_and_dicts(lua: Any, source: str, value: Any) -> None:
    encoded = encode({"t": lua.eval(source)})
    assert same(decode(encoded), {"t": value})
    assert same(decode(Encoded(read_back(encoded.plain), through_plexus(encoded.notes))), {"t": value})


def test_a_table_inside_python_values_inside_a_table(lua: Any) -> None:
    python = {"rows": [lua.eval("{1, 2}")]}
    table = lua.table_from({"python": python})
    assert same(decode(encode(table)), {"python": {"rows": [[1, 2]]}})


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("{a = {1, function() end}}", "/t/a/1"),
        ("{f = print}", "/t/f"),
        ("{{}, {x = coroutine.create(function() end)}}", "/t/1/x"),
        ("{a = {[{}] = 1}}", "/t/a"),
        ("{a = {[print] = 1}}", "/t/a"),
        ("{a = {'one', [true] = 'two'}}", "/t/a"),
        ("{a = {[0] = 'one', [false] = 'two'}}", "/t/a"),
    ],
)
def test_what_is_not_a_value_is_refused_by_path(lua: Any, source: str, path: str) -> None:
    with pytest.raises(ValueNotSerializable) as caught:
        encode({"t": lua.eval(source)})
    assert caught.value.path == path


def test_bytes_that_are_not_text_are_refused_by_path(lua: Any) -> None:
    for source in (r"{a = {'\255'}}", r"{a = {['\255'] = 1}}"):
        with pytest.raises(ValueNotSerializable) as caught:
            encode({"t": lua.eval(source)})
        assert caught.value.path.startswith("/t/a")


def test_a_cyclic_table_is_refused(lua: Any) -> None:
    lua.execute("t = {1}; t.me = t; list = {}; list[1] = list")
    for name in ("t", "list"):
        with pytest.raises(ValueNotSerializable):
            encode(lua.eval(name))


def test_leniently_a_cyclic_table_does_not_explode(lua: Any) -> None:
    lua.execute("t = {}; t.a = t; t.b = t")
    decode(encode_leniently(lua.eval("t")))


def test_leniently_the_rest_of_a_table_is_kept(lua: Any) -> None:
    back = decode(encode_leniently(lua.eval("{x = 1, f = print, [{}] = 2}")))
    assert back["x"] == 1


def test_tables_are_recognised_and_never_fingerprinted(lua: Any) -> None:
    table = lua.eval("{1}")
    assert is_lua_table(table)
    assert not is_lua_table({})
    assert fingerprint({"t": table}) is None
    for value in ([table], (table,), {"a": [{"b": (table,)}]}):
        assert holds_lua(value)
    assert not holds_lua({"a": [1, (2,)]})
