"""Results that were Lua tables: remembered by the codec, through Plexus too, and tables again in another Lua runtime."""

from __future__ import annotations

from typing import Any

import pytest

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoding import encode, encode_result
from plexus_tactus_cache.document.lua import as_tables, freeze, revive
from plexus_tactus_cache.document.markers import LuaDict, LuaList
from plexus_tactus_cache.document.plain import Encoded

from .values import read_back, through_plexus

lupa = pytest.importorskip("lupa")

SHOW = """
function show(value)
    if type(value) ~= "table" then return type(value) .. ":" .. tostring(value) end
    local parts = {}
    for key, item in pairs(value) do parts[#parts + 1] = show(key) .. "=" .. show(item) end
    table.sort(parts)
    return "{#" .. #value .. " " .. table.concat(parts, ", ") .. "}"
end
return show
"""
TABLES = [
    "{}",
    "{1, 2.0, -0.0, 'x', true, {}}",
    "{{1, {2, {3}}}, {a = {b = {}}}}",
    "{[3] = 'c', [10] = 'j'}",
    "{'a', 'b', name = 'both', [2.5] = 1, [false] = 'no', ['1'] = 'text'}",
    "{[true] = 'yes', ['true'] = 'text', [-1] = {}}",
    "{2^53, 9007199254740993, 1/0, math.mininteger}",
]


@pytest.mark.parametrize("source", TABLES)
def test_a_table_is_the_same_table_in_another_runtime(source: str) -> None:
    one, other = lupa.LuaRuntime(), lupa.LuaRuntime()
    encoded = encode_result(one.eval(source))
    here = decode(encoded)
    from_plexus = decode(Encoded(read_back(encoded.plain), through_plexus(encoded.notes)))
    wanted = one.execute(SHOW)(one.eval(source))
    for found in (here, from_plexus, freeze(here)):
        assert other.execute(SHOW)(revive(found, other.table)) == wanted


def test_what_was_pythons_stays_pythons() -> None:
    lua = lupa.LuaRuntime()
    table = lua.table_from({"rows": [1, {"x": lua.eval("{1, {2}}")}], "pair": (1, lua.eval("{}"))})
    frozen = freeze(table)
    assert frozen == {"rows": [1, {"x": [1, [2]]}], "pair": (1, {})}
    for value in (frozen, decode(encode(frozen)), freeze(revive(frozen, lua.table))):
        again = revive(value, lua.table)
        assert lupa.lua_type(again) == "table"
        assert type(again["rows"]) is list
        assert type(again["rows"][1]) is dict
        assert lupa.lua_type(again["rows"][1]["x"][2]) == "table"
        assert type(again["pair"]) is tuple
        assert lupa.lua_type(again["pair"][1]) == "table"


def test_marks_are_dicts_and_lists_to_everyone_else() -> None:
    lua = lupa.LuaRuntime()
    found = freeze(lua.eval("{a = {1}}"))
    assert (type(found), type(freeze(lua.eval("{1}")))) == (LuaDict, LuaList)
    assert found == {"a": [1]}
    assert type(found["a"]) is list  # inside a table nothing but Python's own is marked
    assert encode({"a": [1]}).notes == {}


def test_a_revived_value_shares_nothing_with_what_is_stored() -> None:
    lua = lupa.LuaRuntime()
    stored: Any = {"list": [1], "table": LuaList([1])}
    again = revive(stored, lua.table)
    again["list"].append(2)
    again["table"][1] = "changed"
    assert stored == {"list": [1], "table": [1]}


def test_state_is_tables_throughout() -> None:
    lua = lupa.LuaRuntime()
    assert lupa.lua_type(as_tables({"a": [1, {"b": []}]}, lua.table)["a"][2]["b"]) == "table"
