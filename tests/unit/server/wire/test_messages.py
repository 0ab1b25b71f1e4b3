"""The Structs, the JSON Schema and PROTOCOL.md say the same."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from server.wire.codec import decode_client, decode_object, decode_server, encode
from server.wire.messages import (
    CLIENT_TYPES,
    SERVER_TYPES,
    Message,
    type_of,
)
from tests.fuzz.lengths import UNHURRIED

WIRE = Path(__file__).parents[4] / "server" / "wire"
SCHEMA = json.loads((WIRE / "native-v1.schema.json").read_text())
PROTOCOL = (WIRE / "PROTOCOL.md").read_text()
EXAMPLES = re.findall(r"^([cs]) (\{.*\})$", PROTOCOL, re.MULTILINE)
KINDS: list[tuple[str, type[Message]]] = [
    *(("client", kind) for kind in CLIENT_TYPES.values()),
    *(("server", kind) for kind in SERVER_TYPES.values()),
]


def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{name}"}]})


VALIDATORS = {side: validator(side) for side in ("client", "server")}
of_every_kind = pytest.mark.parametrize(
    ("side", "kind"), KINDS, ids=[f"{side}-{type_of(kind)}" for side, kind in KINDS]
)


def takes(kind: type[Message], value: dict[str, Any]) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


KEYWORDS = (
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "maxItems",
    "pattern",
    "additionalProperties",
)
BOUNDS = [0, 1, 10, 80, 100, 1_000, 2_000, 5_000, 8_000, 48_000, 86_400, 120_000, 2**31, 2**53]
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
LANGUAGES = st.sampled_from(["auto", "en", "de-AT", "zh-Hant-TW", "es-419"])
JUNK: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([bound + by for bound in BOUNDS for by in (-1, 0, 1)])
    | st.sampled_from([0.5, -0.5, 1.5, 10.5, 1e300])
    | TEXT
    | st.sampled_from(["en\n", "en_US", "e", "x" * 65, "x" * 4097, "auto-", "pcm_s16le", "low"])
    | st.just([])
    | st.just({})
)


def objects(kind: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
    """Return the JSON objects that ``kind`` takes."""
    return _struct(inspect.type_info(kind))


def _struct(info: Any) -> st.SearchStrategy[dict[str, Any]]:
    required = {field.encode_name: _value(field.type) for field in info.fields if field.required}
    optional = {
        field.encode_name: _value(field.type) for field in info.fields if not field.required
    }
    tag = {} if info.tag is None else {info.tag_field: st.just(info.tag)}
    return st.fixed_dictionaries(tag | required, optional=optional)


def _value(info: Any) -> st.SearchStrategy[Any]:
    return MAKERS[type(info)](info)


def _text(info: Any) -> st.SearchStrategy[str]:
    if info.pattern is not None:
        return LANGUAGES
    return st.text(
        st.characters(codec="utf-8"),
        min_size=info.min_length or 0,
        max_size=min(info.max_length or 12, 12),
    )


MAKERS: dict[type, Callable[[Any], st.SearchStrategy[Any]]] = {
    inspect.Metadata: lambda info: _value(info.type),
    inspect.IntType: lambda info: (
        st.sampled_from([info.ge, info.le]) | st.integers(info.ge, info.le)
    ),
    inspect.FloatType: lambda info: (
        st.sampled_from([info.ge, info.le]) | st.floats(info.ge, info.le)
    ),
    inspect.StrType: _text,
    inspect.BoolType: lambda _: st.booleans(),
    inspect.NoneType: lambda _: st.none(),
    inspect.LiteralType: lambda info: st.sampled_from(info.values),
    inspect.UnionType: lambda info: st.one_of(*map(_value, info.types)),
    inspect.VarTupleType: lambda info: st.lists(
        _value(info.item_type), max_size=min(3, info.max_length or 3)
    ),
    inspect.DictType: lambda _: st.dictionaries(TEXT, st.integers(0, 9) | TEXT, max_size=3),
    inspect.StructType: lambda info: _struct(info),
}


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Return an object with one place in it replaced, removed or added; the type stays."""
    value = draw(whole)
    spot: Any = value
    while True:
        keys = [k for k in (spot if isinstance(spot, dict) else range(len(spot))) if k != "type"]
        if not keys:
            spot["surplus"] = draw(JUNK)
            return value
        key = draw(st.sampled_from(keys))
        if isinstance(spot[key], dict | list) and spot[key] and draw(st.booleans()):
            spot = spot[key]
            continue
        what = draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "remove":
            del spot[key]
        elif what == "add" and isinstance(spot, dict):
            spot["surplus"] = draw(JUNK)
        else:
            spot[key] = draw(JUNK)
        return value


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@of_every_kind
@settings(UNHURRIED, max_examples=20)
@given(data=st.data())
def test_what_a_struct_sends_is_what_the_schema_allows(
    side: str, kind: type[Message], data: st.DataObject
) -> None:
    message = msgspec.convert(data.draw(objects(kind)), kind)
    sent = json.loads(encode(message))
    VALIDATORS[side].validate(sent)
    assert sent["type"] == type_of(kind)
    decode = decode_client if side == "client" else decode_server
    assert decode(sent) == message


@of_every_kind
@settings(UNHURRIED, max_examples=30)
@given(data=st.data())
def test_schema_and_struct_refuse_the_same_objects(
    side: str, kind: type[Message], data: st.DataObject
) -> None:
    value = data.draw(damaged(objects(kind)))
    is_allowed = VALIDATORS[side].is_valid(value)
    if side == "server" and "null" in json.dumps(value):
        assert takes(kind, value) or not is_allowed  # a client is lenient about null
    else:
        assert takes(kind, value) == is_allowed, value


@of_every_kind
def test_schema_and_struct_have_the_same_bounds(side: str, kind: type[Message]) -> None:
    ours = next(
        {"$ref": ref["$ref"]}
        for ref in SCHEMA["$defs"][side]["oneOf"]
        if (("type",), "enum", type_of(kind)) in bounds(SCHEMA, ref)
    )
    made = msgspec.json.schema(kind)
    skip = {(("type",), "enum", name) for name in ("pause", "resume", "stop")}
    assert bounds(SCHEMA, ours) - skip == bounds(made, made) - skip


def bounds(schema: dict[str, Any], node: Any, path: tuple[str, ...] = ()) -> set[Any]:
    """Return every constraint on a value below ``node`` as (path, keyword, value)."""
    if "$ref" in node:
        target: Any = schema
        for part in node["$ref"].split("/")[1:]:
            target = target[part]
        return bounds(schema, target, path)
    found = {(path, word, node[word]) for word in KEYWORDS if word in node}
    found |= {(path, "enum", value) for value in node.get("enum", [])}
    found |= {(path, "enum", node["const"])} if "const" in node else set()
    found |= {(path, "required", name) for name in node.get("required", [])}
    for choice in [*node.get("anyOf", []), *node.get("oneOf", [])]:
        found |= bounds(schema, choice, path)
    for name, value in node.get("properties", {}).items():
        found |= bounds(schema, value, (*path, name))
    if isinstance(node.get("items"), dict):
        found |= bounds(schema, node["items"], (*path, "[]"))
    return found


@of_every_kind
def test_every_message_has_a_heading_under_its_side(side: str, kind: type[Message]) -> None:
    client, server = PROTOCOL.split("## From the server")
    assert f"### `{type_of(kind)}`\n" in (client if side == "client" else server)


@of_every_kind
def test_every_message_has_an_example(side: str, kind: type[Message]) -> None:
    types = {json.loads(text)["type"] for who, text in EXAMPLES if who == side[0]}
    assert type_of(kind) in types


@pytest.mark.parametrize(
    ("who", "text"), EXAMPLES, ids=[f"example{i}" for i in range(len(EXAMPLES))]
)
def test_every_example_of_the_protocol_page_is_valid(who: str, text: str) -> None:
    side = "client" if who == "c" else "server"
    VALIDATORS[side].validate(json.loads(text))
    value = decode_object(text)
    message = decode_client(value) if who == "c" else decode_server(value)
    assert message is not None
    sent = json.loads(encode(message))
    assert {name: sent[name] for name in value if name != "limits"} == {
        name: value[name] for name in value if name != "limits"
    }


@pytest.mark.parametrize(
    "block", re.findall(r"^```\n(.*?)^```", PROTOCOL, re.DOTALL | re.MULTILINE)
)
def test_a_code_block_of_the_page_holds_nothing_but_messages(block: str) -> None:
    for line in block.splitlines():
        assert re.fullmatch(r"[cs] \{.*\}|c <\d+ bytes> x\d+", line)


def test_optional_fields_that_are_none_are_left_out() -> None:
    text = encode(SERVER_TYPES["finalized"](at=3))  # type: ignore[call-arg]
    assert text == '{"type":"finalized","at":3}'
