"""Values to JSON and back: exactly, or refused with the path that is to blame."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoded import key_text, key_value, pack, unpack, value_digest
from plexus_tactus_cache.document.encoding import encode, encode_leniently
from plexus_tactus_cache.document.plain import (
    MAX_DEPTH,
    Encoded,
    UnknownModel,
    canonical,
    digest,
    dumps,
    escape,
    fingerprint,
)
from plexus_tactus_cache.errors import ValueNotSerializable
from plexus_tactus_cache.testing.simulator import awsjson

from .values import (
    SPECIAL_FLOATS,
    SPECIAL_INTEGERS,
    SPECIAL_KEYS,
    Answer,
    Colour,
    Level,
    Outer,
    Usage,
    any_text,
    integers,
    json_values,
    keys,
    mark,
    read_back,
    same,
    through_plexus,
    values,
)

NAN = float("nan")


def nested(levels: int, wrap: Any = lambda inner: [inner], innermost: Any = 0) -> Any:
    for _ in range(levels):
        innermost = wrap(innermost)
    return innermost


# --- round trips ------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(values)
def test_every_value_comes_back_exactly_from_a_row(value: Any) -> None:
    assert same(decode(unpack(pack(encode(value)))), value)


@settings(max_examples=300)
@given(values)
def test_every_value_comes_back_exactly_from_plexus(value: Any) -> None:
    plain, notes = encode(value)
    assert digest(read_back(plain)) == digest(plain)
    assert same(decode(Encoded(read_back(plain), through_plexus(notes))), value)


@settings(max_examples=200)
@given(values)
def test_encoding_again_what_was_decoded_gives_the_same_digest(value: Any) -> None:
    encoded = encode(value)
    assert value_digest(encode(decode(unpack(pack(encoded))))) == value_digest(encoded)


@settings(max_examples=100)
@given(values)
def test_encoding_leaves_the_value_alone_and_decoding_leaves_the_record_alone(value: Any) -> None:
    before = mark(value, ordered=True)
    encoded = encode(value)
    packed = pack(encoded)
    decode(encoded)
    assert mark(value, ordered=True) == before
    assert pack(encoded) == packed


@pytest.mark.parametrize("value", SPECIAL_FLOATS + SPECIAL_INTEGERS, ids=repr)  # type: ignore[operator]
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": v}, lambda v: {v: 1}, lambda v: (v,)])
def test_numbers(value: Any, wrap: Any) -> None:
    plain, notes = encode(wrap(value))
    assert digest(read_back(plain)) == digest(plain)
    assert same(decode(Encoded(read_back(plain), through_plexus(notes))), wrap(value))


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", "1": "b", True: "c"},
        {1: "a", "1": "b", "1~": "c", 2: "d", "2": "e"},
        {1.5: 1, "1.5": 2, (1.5,): 3, "[1.5]": 4},
        {None: 1, "null": 2, False: 3, "false": 4},
        {b"AA==": 1, "AA==": 2, b"\x00": 3},
        {"\ud800": 1, "?": 2, "\udfff": 3},
        {frozenset({1, "1"}): {frozenset(): {(): []}}},
        {dt.date(2026, 1, 2): 1, "2026-01-02": 2, dt.datetime(2026, 1, 2): 3},
        {"a/b": {"c~d": 1.0}, "a": {"b/c~d": 2.0}, "a~1b": {"c": 3.0}},
        {"#keys": 1.0, "": {"#keys": 2.0, 3: 4.0}, "a#keys": {5: 6.0}, "a": {7: 8.0}},
        {float("nan"): 1, "nan": 2, float("inf"): 3, "inf": 4},
        dict.fromkeys(SPECIAL_KEYS, 1.0),
    ],
    ids=repr,
)
def test_keys_that_look_alike_stay_apart(value: Any) -> None:
    plain, notes = encode(value)
    assert len(plain) == len(value)
    assert same(decode(Encoded(read_back(plain), through_plexus(notes))), value)


def test_the_order_of_keys_survives_in_a_row() -> None:
    value = {"z": 1, "a": {"y": 1.0, "b": 2}, 3: 4, "c": 5}
    assert mark(decode(unpack(pack(encode(value)))), ordered=True) == mark(value, ordered=True)


@given(any_text | keys)
def test_a_key_as_text_and_back(key: Any) -> None:
    assert same(key_value(key_text(key)), key)
    key_text(key).encode()  # it becomes a row key


@settings(max_examples=50)
@given(st.lists(keys | any_text, min_size=2, max_size=2, unique=True))
def test_different_keys_have_different_texts(pair: list[Any]) -> None:
    one, other = pair
    if not same(one, other):
        assert key_text(one) != key_text(other)


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (OrderedDict(a=1.0), {"a": 1.0}),
        ({Colour.RED: Level.HIGH}, {"red": 3}),
    ],
    ids=repr,
)
def test_subclasses_come_back_as_what_they_equal(value: Any, back: Any) -> None:
    assert same(decode(encode(value)), back)


@given(json_values.filter(lambda value: same(canonical(value), value)))
def test_json_has_no_notes_unless_a_number_is_unsafe(value: Any) -> None:
    plain, notes = encode(value)
    assert all(note[0] in ("int", "float") for note in notes.values())
    if not notes:
        assert same(plain, value)


def test_plain_values_are_readable() -> None:
    encoded = encode({"n": 1.0, "when": dt.datetime(2026, 1, 2, 3, 4), "x": NAN, "tags": ("a",)})
    assert encoded.plain == {"n": 1, "when": "2026-01-02T03:04:00", "x": None, "tags": ["a"]}
    assert set(encoded.notes) == {"/n", "/when", "/x", "/tags"}


@given(st.lists(any_text, min_size=2, max_size=2, unique=True))
def test_escaped_steps_are_unambiguous(steps: list[str]) -> None:
    assert escape(steps[0]) != escape(steps[1])
    assert not {"/", "#"} & set(escape(steps[0]))


# --- what Plexus holds from others ------------------------------------------------------------------------


@given(json_values)
def test_any_json_from_plexus_has_a_digest(value: Any) -> None:
    found = canonical(orjson.loads(awsjson.dump(awsjson.normalise(value))))
    assert digest(found) == digest(canonical(orjson.loads(awsjson.dump(awsjson.normalise(found)))))


@pytest.mark.parametrize("number", [1e22, 1e300, 10**25, 2**64, -(2**64), 1.5e19])
def test_huge_numbers_of_other_writers_have_a_digest(number: Any) -> None:
    found = read_back({"count": float(number)})
    assert digest(found)
    assert float(decode(Encoded(found, {}))["count"]) == float(number)


# --- refusals ---------------------------------------------------------------------------------------------


class Opaque:
    """Nothing can store this."""


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Opaque(), ""),
        ([1, Opaque()], "/1"),
        ({"a": {"b/c": [0, {"~": Opaque()}]}}, "/a/b~1c/1/~0"),
        ((1, (2, Opaque())), "/1/1"),
        ({3: {"#": Opaque()}}, "/3/~2"),
        (Answer(text="", parts=[0, Opaque()]), "/parts/1"),
        (Answer(text="", usage=Usage(note={"x": Opaque()})), "/usage/note/x"),
        ({"a": {Opaque(): 1}}, "/a"),
        ({"a": [{("t", Opaque()): 1}]}, "/a/0"),
        ({"f": len}, "/f"),
        ({"c": 1j}, "/c"),
        ([{"a": memoryview(b"x")}], "/0/a"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_refusal_names_the_path(value: Any, path: str) -> None:
    with pytest.raises(ValueNotSerializable) as caught:
        encode(value)
    assert caught.value.path == path
    assert repr(path or "its root") in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_an_element_of_a_set_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(ValueNotSerializable) as caught:
        encode({"tags": {Opaque()}})
    assert caught.value.path.startswith("/tags")


def cyclic() -> list[tuple[Any, str]]:
    in_list: list[Any] = [0]
    in_list.append({"again": in_list})
    in_dict: dict[str, Any] = {}
    in_dict["me"] = in_dict
    model = Usage()
    model.note = [model]
    return [(in_list, "/1/again"), (in_dict, "/me"), (model, "/note/0")]


@pytest.mark.parametrize(("value", "path"), cyclic(), ids=["list", "dict", "model"])
def test_a_cycle_is_refused_where_it_closes(value: Any, path: str) -> None:
    with pytest.raises(ValueNotSerializable, match="contains itself") as caught:
        encode(value)
    assert caught.value.path == path


def test_sharing_is_not_a_cycle() -> None:
    shared = [1.0]
    assert same(decode(encode({"a": shared, "b": [shared, shared]})), {"a": [1.0], "b": [[1.0], [1.0]]})


WRAPS = {
    "list": lambda inner: [inner],
    "dict": lambda inner: {"k": inner},
    "tuple": lambda inner: (inner,),
    "model": lambda inner: Usage(note=inner),
    "ordered": lambda inner: OrderedDict(k=inner),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_the_deepest_that_is_accepted_can_be_stored(wrap: Any) -> None:
    value = nested(MAX_DEPTH, wrap)
    back = decode(unpack(pack(encode(value))))
    assert pack(encode(back)) == pack(encode(value))


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 5000])
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_too_deep_is_refused(wrap: Any, levels: int) -> None:
    with pytest.raises(ValueNotSerializable, match="deep"):
        encode(nested(levels, wrap))


class Counted(tuple[int, ...]):
    """Knows how often it was looked into."""

    looks = 0

    def __iter__(self) -> Iterator[int]:
        Counted.looks += 1
        return super().__iter__()


def test_sets_in_sets_cost_what_they_hold() -> None:
    Counted.looks = 0
    value = nested(10, lambda inner: frozenset({inner}), Counted((1,)))
    assert same(decode(encode(value)), nested(10, lambda inner: frozenset({inner}), (1,)))
    assert Counted.looks < 100


def test_an_integer_too_long_for_python_to_print_is_exact_or_refused() -> None:
    value = 10**5000
    try:
        encoded = encode([value])
    except ValueNotSerializable:
        return
    assert decode(unpack(pack(encoded))) == [value]


def test_at_the_end_of_the_call_stack_it_is_refused_too() -> None:
    def deeper(left: int) -> Any:
        return encode(nested(90)) if left == 0 else deeper(left - 1)

    limit = sys.getrecursionlimit()
    depth = len(list(_frames()))
    with pytest.raises(ValueNotSerializable):
        deeper(limit - depth - 60)


def _frames() -> Any:
    frame: Any = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


# --- leniently --------------------------------------------------------------------------------------------


def test_leniently_describes_what_cannot_be_stored() -> None:
    encoded = encode_leniently({"ok": 1.0, "bad": Opaque(), "more": [Opaque(), 2]})
    back = decode(encoded)
    assert back["ok"] == 1.0
    assert "Opaque" in back["bad"]["__not_stored__"]
    assert back["more"][1] == 2


@pytest.mark.parametrize(
    "value",
    [
        {"a": {Opaque(): 1}},
        {Opaque(): 1},
        {("t", Opaque()): 1},
        {dt.timedelta(1): 1},
        nested(5000),
        *[value for value, _ in cyclic()],
        {Opaque()},
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, list) else "deep or cyclic",
)
def test_leniently_never_refuses(value: Any) -> None:
    encoded = encode_leniently(value)
    decode(unpack(pack(encoded)))


def test_leniently_a_cycle_of_subclasses_does_not_explode() -> None:
    value: dict[str, Any] = OrderedDict()
    value["a"] = value["b"] = value
    decode(encode_leniently(value))


@given(values)
def test_leniently_is_exact_for_what_can_be_stored(value: Any) -> None:
    assert encode_leniently(value) == encode(value)


# --- models -----------------------------------------------------------------------------------------------


def test_models_keep_what_was_set_and_what_was_not() -> None:
    value = Answer.model_construct(_fields_set={"text"}, text="x", more=1.0)
    back = decode(encode([value, Outer.Inner(value=Usage(tokens=1))]))
    assert back[0].model_fields_set == {"text"}
    assert back[0].more == 1.0
    assert same(back[1], Outer.Inner(value=Usage(tokens=1)))


class Aliased(BaseModel):
    """Its aliases are each other's names."""

    model_config = ConfigDict(populate_by_name=True)

    left: int = Field(1, alias="right")
    right: int = Field(2, alias="left")


def test_aliases_do_not_mix_up_fields() -> None:
    value = Aliased.model_construct()
    value.left, value.right = 10, 20
    back = decode(encode(value))
    assert (back.left, back.right) == (10, 20)


class Counting(BaseModel):
    """Its hook changes it."""

    made: int = 0

    def model_post_init(self, context: Any, /) -> None:
        self.made += 1


def test_decoding_runs_no_hook_of_a_model() -> None:
    value = Counting()
    assert value.made == 1
    assert decode(encode(value)).made == 1


@pytest.mark.parametrize("name", ["cls", "_fields_set", "self", "values", "model_config"])
def test_extra_fields_may_have_any_name(name: str) -> None:
    value = Answer.model_construct(_fields_set={"text"}, text="x")
    assert value.__pydantic_extra__ is not None
    value.__pydantic_extra__[name] = 1.0
    assert same(decode(encode(value)), value)


class Secretive(BaseModel):
    """Its private attribute is part of its equality."""

    shown: int = 1
    _hidden: int = PrivateAttr(default=0)


def test_private_attributes_come_back_or_are_refused() -> None:
    value = Secretive()
    value._hidden = 7
    try:
        encoded = encode(value)
    except ValueNotSerializable:
        return
    assert decode(encoded) == value


def test_a_model_that_cannot_be_found_again_is_refused() -> None:
    class Local(BaseModel):
        x: int = 1

    with pytest.raises(ValueNotSerializable, match="Local"):
        encode({"m": Local()})
    dynamic = create_model("Dynamic", x=(int, 1), __module__=__name__)
    with pytest.raises(ValueNotSerializable, match="Dynamic"):
        encode({"m": dynamic()})


def test_a_model_whose_module_is_not_loaded_is_kept_and_stored_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("unit_vanishing")
    exec(
        "from pydantic import BaseModel, ConfigDict\n"
        "class Gone(BaseModel):\n"
        "    model_config = ConfigDict(extra='allow')\n"
        "    a: object = 1\n"
        "    b: object = 2\n",
        module.__dict__,
    )
    monkeypatch.setitem(sys.modules, "unit_vanishing", module)
    value = {"m": module.Gone(a=1.0, more={3: (4,)})}
    encoded = encode(value)
    monkeypatch.delitem(sys.modules, "unit_vanishing")

    back = decode(encoded)
    assert isinstance(back["m"], UnknownModel)
    assert same(dict(back["m"]), {"a": 1.0, "b": 2, "more": {3: (4,)}})
    assert "unit_vanishing" not in sys.modules
    again = encode(back)
    assert (digest(again.plain), again.notes) == (digest(encoded.plain), encoded.notes)

    monkeypatch.setitem(sys.modules, "unit_vanishing", module)
    assert same(decode(again), value)


@pytest.mark.parametrize(
    "name",
    [
        "this:s",
        "os:system",
        "builtins:eval",
        "unit_absent:X",
        "",
        ":",
        "a:b:c",
        "plexus_tactus_cache.document.decoding:Any",
        "sys:modules",
    ],
)
def test_a_name_that_is_no_model_gives_an_unknown_model(name: str) -> None:
    before = set(sys.modules)
    back = decode(Encoded({"x": 1}, {"": ["model", name, []]}))
    assert isinstance(back, UnknownModel)
    assert back == {"x": 1}
    assert set(sys.modules) == before


def test_nothing_is_imported_by_a_lazy_module(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    lazy = types.ModuleType("unit_lazy")
    lazy.__dict__["__getattr__"] = asked.append  # PEP 562, as in concurrent.futures: this is where it would import
    monkeypatch.setitem(sys.modules, "unit_lazy", lazy)
    assert isinstance(decode(Encoded({}, {"": ["model", "unit_lazy:Heavy", []]})), UnknownModel)
    assert asked == []


def test_decoding_imports_nothing_in_a_fresh_process() -> None:
    script = (
        "import sys; from plexus_tactus_cache.document.decoding import *\n"
        "before = set(sys.modules)\n"
        "for name in ['wsgiref:x', 'xml.dom:Node', 'concurrent.futures:ProcessPoolExecutor', 'importlib:import_module']:\n"
        "    decode(Encoded({'x': 1}, {'': ['model', name, []]}))\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- digests and fingerprints -----------------------------------------------------------------------------


def test_digest_ignores_order_and_little_else() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest({"a": None}) != digest({})
    assert digest(1) != digest(True) != digest("1")
    assert dumps({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()


def test_wire_digests_take_one_and_one_point_zero_for_equal_but_local_ones_do_not() -> None:
    one, float_one, true = encode(1), encode(1.0), encode(True)
    assert digest(one.plain) == digest(float_one.plain)
    assert len({value_digest(one), value_digest(float_one), value_digest(true)}) == 3


@settings(max_examples=150)
@given(values)
def test_equal_content_has_equal_fingerprints(value: Any) -> None:
    try:
        copy = decode(unpack(pack(encode(value))))
    except ValueNotSerializable:
        return
    assert fingerprint(value) == fingerprint(copy)


@settings(max_examples=150)
@given(values, values)
def test_different_content_has_different_fingerprints(one: Any, other: Any) -> None:
    if fingerprint(one) is not None and not same(one, other):
        assert fingerprint(one) != fingerprint(other)


def test_a_fingerprint_does_not_depend_on_who_else_holds_the_value() -> None:
    text = "some text"
    alone = fingerprint(["".join(["some", " text"]), "".join(["some", " text"])])
    holders = [text] * 100
    assert fingerprint([text, text]) == alone
    assert len(holders) == 100
    assert fingerprint([sys.intern("abc"), sys.intern("abc")]) == fingerprint(["".join("abc"), "".join("abc")])


def test_what_has_no_fingerprint() -> None:
    assert fingerprint(Usage()) is None
    assert fingerprint([Opaque()]) is None
    assert fingerprint(nested(5000)) is None
    cycle: list[Any] = []
    cycle.append(cycle)
    assert fingerprint(cycle) is None


@given(integers)
def test_integers_of_any_size_have_fingerprints(number: int) -> None:
    assert fingerprint(number) != fingerprint(number + 1)
