"""The core's question "which node for this user", with and without the operator's answer."""

import asyncio
import contextlib
import dataclasses
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from websockets.http11 import Response

from edge.camara import PATH, Device, DiscoveryError, Zones, read_urls, zone_of
from edge.core import Core, CoreConfig
from edge.places import BadQuestion, Places, question_of
from edge.registry import Registry
from edge.run import CoreSettings, pages
from edge.wire import Beat, Hello, Policy
from server.keys import Keyring, add_key, remove_key
from server.wire.credentials import Presented

pytestmark = pytest.mark.io

ADDRESS = {"type": "string", "format": "ipv4"}
REQUEST = {  # Simple Edge Discovery 2.0.1, RequestBody
    "type": "object",
    "properties": {
        "device": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": False,
            "properties": {
                "phoneNumber": {"type": "string", "pattern": r"^\+[1-9][0-9]{4,14}$"},
                "networkAccessIdentifier": {"type": "string"},
                "ipv4Address": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "publicAddress": ADDRESS,
                        "privateAddress": ADDRESS,
                        "publicPort": {"type": "integer", "minimum": 1024, "maximum": 65_535},
                    },
                    "anyOf": [
                        {"required": ["publicAddress", "privateAddress"]},
                        {"required": ["publicAddress", "publicPort"]},
                    ],
                },
                "ipv6Address": {"type": "string", "format": "ipv6"},
            },
        }
    },
}
CORRELATOR = {"type": "string", "pattern": r"^[a-zA-Z0-9-_:;.\/<>{}]{0,256}$"}
ANSWER = {
    "required": ["edgeCloudZoneId", "edgeCloudZoneName", "edgeCloudProvider"],
    "properties": {"edgeCloudZoneId": {"type": "string", "format": "uuid"}},
}
ZONE_ID = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
PHONES = {"+491701234567": "DE-EAST", "+491707654321": "DE-WEST"}


class Operator(BaseHTTPRequestHandler):
    """An operator made from the published schema: what breaks it is refused by its codes."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, value = self._answer(body)
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("x-correlator", self.headers.get("x-correlator", ""))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.path != PATH:
            return _error(404, "NOT_FOUND")
        if self.headers.get("Authorization") != "Bearer two-legged":
            return _error(401, "UNAUTHENTICATED")
        try:
            jsonschema.validate(body, REQUEST, format_checker=jsonschema.FormatChecker())
            jsonschema.validate(self.headers.get("x-correlator", ""), CORRELATOR)
        except jsonschema.ValidationError:
            return _error(400, "INVALID_ARGUMENT")
        if "device" not in body:
            return _error(422, "MISSING_IDENTIFIER")
        device = body["device"]
        name = PHONES.get(device.get("phoneNumber", ""))
        if "ipv4Address" in device or "ipv6Address" in device:
            name = "DE-EAST"
        if name is None:
            return _error(404, "IDENTIFIER_NOT_FOUND")
        zone = {
            "edgeCloudZoneId": ZONE_ID,
            "edgeCloudZoneName": name,
            "edgeCloudProvider": "An Operator",
        }
        jsonschema.validate(zone, ANSWER)
        return 200, zone

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _error(status: int, code: str) -> tuple[int, dict[str, Any]]:
    return status, {"status": status, "code": code, "message": "about +491701234567"}


@pytest.fixture
def operator() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Operator)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("two-legged\n")
    return path


@pytest.mark.parametrize(
    "device",
    [
        Device(phone="+491701234567"),
        Device(ipv4="84.125.93.10", port=59_765),
        Device(ipv4="84.125.93.10"),
        Device(ipv6="2001:db8:85a3:8d3:1319:8a2e:370:7344"),
        Device(phone="+491701234567", ipv4="84.125.93.10", port=59_765),
    ],
)
async def test_an_operator_names_the_zone_of_a_device(
    operator: str, token: Path, device: Device
) -> None:
    zone = await Zones(root=operator, token_file=token).closest(device)
    assert (zone.name, zone.id, zone.provider) == ("DE-EAST", ZONE_ID, "An Operator")


@pytest.mark.parametrize(
    ("device", "code"),
    [
        (Device(phone="0170"), "INVALID_ARGUMENT"),
        (Device(ipv4="84.125.93.10", port=80), "INVALID_ARGUMENT"),
        (Device(phone="+4917000000"), "IDENTIFIER_NOT_FOUND"),
        (Device(), "MISSING_IDENTIFIER"),
    ],
)
async def test_what_the_operator_refuses_is_named_by_its_code_and_not_by_the_device(
    operator: str, token: Path, device: Device, code: str
) -> None:
    with pytest.raises(DiscoveryError) as refused:
        await Zones(root=operator, token_file=token).closest(device)
    assert refused.value.code == code
    assert "+49" not in str(refused.value)


async def test_a_wrong_token_and_an_operator_who_is_not_there_are_told_apart(
    operator: str, tmp_path: Path
) -> None:
    stale = tmp_path / "stale"
    stale.write_text("expired")
    for zones, code in (
        (Zones(root=operator, token_file=stale), "UNAUTHENTICATED"),
        (Zones(root=operator, token_file=tmp_path / "none"), "unreachable"),
        (Zones(root="http://127.0.0.1:1"), "unreachable"),
    ):
        with pytest.raises(DiscoveryError) as refused:
            await zones.closest(Device(phone="+491701234567"))
        assert refused.value.code == code


@pytest.mark.parametrize(
    "reply",
    [
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n",
        b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",  # and nothing follows
    ],
)
async def test_an_operator_who_speaks_rubbish_or_falls_silent_is_not_reached(
    reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.camara.TIMEOUT_S", 0.3)
    over = asyncio.Event()

    async def operator(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        if not reply.endswith(b"length\r\n") and b"200" in reply:
            await over.wait()
        writer.close()

    async with await asyncio.start_server(operator, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(DiscoveryError) as refused:
            await Zones(root=f"http://127.0.0.1:{port}").closest(Device(phone="+491701234567"))
        over.set()
    assert refused.value.code == "unreachable"


async def test_an_operator_who_points_elsewhere_is_not_followed(token: Path) -> None:
    heard = list[bytes]()

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(elsewhere, "127.0.0.1", 0) as other:
        where = b"http://127.0.0.1:%d/" % other.sockets[0].getsockname()[1]

        async def operator(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n" % where)
            writer.close()

        async with await asyncio.start_server(operator, "127.0.0.1", 0) as server:
            root = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(DiscoveryError, match="answered 302"):
                await Zones(root=root, token_file=token).closest(Device(phone="+491701234567"))
    assert not heard


def test_an_answer_in_a_list_of_one_is_read_and_rubbish_is_named() -> None:
    whole = '{"edgeCloudZoneId":"i","edgeCloudZoneName":"n","edgeCloudProvider":"p"}'
    assert zone_of(f"[{whole}]".encode()) == zone_of(whole.encode())
    for body in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, whole.replace('"n"', '""').encode()):
        with pytest.raises(DiscoveryError):
            zone_of(body)


def test_a_map_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zones.json"
    path.write_text('{"DE-EAST": "wss://east.example/"}')
    assert read_urls(path) == {"DE-EAST": "wss://east.example/"}
    path.write_text("[1]")
    with pytest.raises(ValueError, match="zone names"):
        read_urls(path)


# ---- the question


def hello(node: str, zone: str, policy: Policy = "core") -> Hello:
    url = f"ws://{node}.example/v1/stream"
    return Hello(
        node=node, epoch=1, zone=zone, slots=4, url=url, policies=(policy,), codecs=("mulaw",)
    )


def places(zones: Zones | None = None) -> Places:
    registry = Registry()
    for node, zone, rtt_ms in (("n1", "DE-EAST", 30.0), ("n2", "DE-WEST", 2.0)):
        registry.join(hello(node, zone), now=0.0)
        registry.beat(node, Beat(legs=0, rtt_ms=rtt_ms), now=0.0)
    return Places(registry, clock=lambda: 1.0, zones=zones)


def said(response: Response) -> tuple[int, dict[str, Any]]:
    assert response.body is not None
    return response.status_code, json.loads(response.body)


async def test_a_user_is_sent_to_the_node_in_the_zone_that_the_operator_names(
    operator: str, token: Path
) -> None:
    here = places(Zones(root=operator, token_file=token))
    status, told = said(await here.answer("codec=mulaw&phone=+491701234567", {}))
    assert (status, told["node"], told["operator_zone"]) == (200, "n1", "DE-EAST")
    assert told["url"] == "ws://n1.example/v1/stream"
    status, told = said(await here.answer("phone=%2B491707654321", {}))
    assert (told["node"], told["operator_zone"]) == ("n2", "DE-WEST")


async def test_without_a_zone_or_a_node_in_it_the_round_trip_decides(
    operator: str, token: Path
) -> None:
    here = places(Zones(root=operator, token_file=token))
    for query in ("", "phone=%2B4917000000"):
        assert said(await here.answer(query, {}))[1]["node"] == "n2"
    assert here.counts == {"placed": 2, "zone unknown": 1}
    del here.registry.nodes["n1"]
    _, told = said(await here.answer("phone=%2B491701234567", {}))
    assert (told["node"], told["operator_zone"]) == ("n2", "DE-EAST")


async def test_a_zone_of_our_map_needs_no_registered_node(operator: str, token: Path) -> None:
    urls = {"DE-EAST": "wss://east.example/v1/stream"}
    here = places(Zones(root=operator, token_file=token, urls=urls))
    _, told = said(await here.answer("phone=%2B491701234567", {}))
    assert told["url"] == urls["DE-EAST"] and "node" not in told


async def test_nobody_to_send_a_user_to_is_503_and_says_when_to_ask_again() -> None:
    response = await places().answer("policy=edge", {})
    assert said(response) == (503, {"error": "no node has this policy"})
    assert response.headers["Retry-After"]


@pytest.mark.parametrize(
    "query", ["policy=cloud", "rtt=n1", "rtt=n1:-1", "rtt=n1:nan", "rtt=:5", "port=x", "who=me"]
)
async def test_a_question_that_cannot_be_read_is_400(query: str) -> None:
    assert said(await places().answer(query, {}))[0] == 400
    with pytest.raises(BadQuestion):
        question_of(query)


def test_a_question_is_read_whole() -> None:
    question, device = question_of("policy=edge&zone=z&rtt=n1:2.5&rtt=n2:7&ipv4=1.2.3.4&port=5000")
    assert (question.policy, question.zone) == ("edge", "z")
    assert question.rtt_ms == {"n1": 2.5, "n2": 7.0}
    assert device == Device(ipv4="1.2.3.4", port=5_000)


async def test_where_there_are_keys_who_asks_shows_one_for_streams(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "shop", ("stream", "tokens"), None)
    files = add_key(file, "archive", ("files",), None)
    keyring = Keyring(file)
    here = dataclasses.replace(places(), keyring=keyring, calendar=lambda: 0.0)
    account = keyring.account_of(Presented(key), now_s=0)
    assert account is not None
    token, over = (keyring.token(account, lasts_s=lasts, now_s=0) for lasts in (60, -1))
    for query, shown in (
        ("", ""), ("", "Bearer guess"), ("", f"Bearer {files}"), ("", f"Bearer {over}"),
        (f"token={key}", ""), ("policy=cloud", ""),
    ):  # fmt: skip
        assert said(await here.answer(query, {"authorization": shown}))[0] == 401
    assert not here.registry.nodes["n2"].promised
    assert said(await here.answer("codec=mulaw", {"authorization": f"Bearer {key}"}))[0] == 200
    assert said(await here.answer(f"codec=mulaw&token={token}", {}))[0] == 200
    assert here.counts == {"unauthorized": 6, "placed": 2}
    remove_key(file, "shop")
    assert said(await here.answer(f"token={token}", {}))[0] == 401


async def test_the_core_answers_over_http() -> None:
    async with core_pages() as get:
        assert (await get("/place?codec=mulaw"))[0] == 503
        assert (await get("/place?policy=x"))[0] == 400
        assert (await get("//[/place"))[0] == 404
        status, body = await get("/metrics")
        assert status == 200 and 'rivulet_edge_core_places_total{outcome="none"} 1' in body


async def test_the_core_asks_for_keys_over_http(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", "shop", ("stream",), None)
    async with core_pages(keyring=Keyring(tmp_path / "keys.json")) as get:
        assert (await get("/place"))[0] == 401
        assert (await get("/place", f"Authorization: Bearer {key}\r\n"))[0] == 503
        assert (await get("/metrics"))[0] == 200


Get = Callable[..., Awaitable[tuple[int, str]]]


@contextlib.asynccontextmanager
async def core_pages(**settings: Any) -> AsyncIterator[Get]:
    core = Core(CoreConfig(url="ws://127.0.0.1:1", port=0))
    async with pages(core, CoreSettings(core=core.config, web_port=0, **settings)) as server:
        port = server.sockets[0].getsockname()[1]

        async def get(path: str, headers: str = "") -> tuple[int, str]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n"
            writer.write(head.encode())
            answer, _, body = (await reader.read()).decode().partition("\r\n\r\n")
            writer.close()
            return int(answer.split()[1]), body

        yield get
