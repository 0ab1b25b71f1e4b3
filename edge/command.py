"""``rivulet edge``: a node near the user, the core's side of it, its state, what a machine carries.

Does: arguments.
Does not know: how nodes and cores work; those parts are loaded when a verb runs them.
"""

import argparse
import asyncio
import ipaddress
import json
import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clients.errors import CommandError

EXAMPLES = """\
examples:
  rivulet edge core --server ws://127.0.0.1:8765/v1/stream        nodes dial in on 127.0.0.1:8770
  rivulet edge --core tcp://127.0.0.1:8770 --web 8772 --audiosocket 9092   a relay for Asterisk
  rivulet edge --core tls://core.example:8770 --cert node.pem --key node.key --ca ca.pem \\
      --policy core+local --rtp 5004 --codec 96=L16/16000 --spill /var/lib/rivulet
  rivulet edge --policy edge --web 8771 --out calls.jsonl         no audio leaves this machine
  rivulet edge status                                             legs, link, backlog
  curl 'http://CORE:8771/place?codec=mulaw&rtt=n1:4.5'             which node for this user
  rivulet edge --doctor                                           what this machine can carry

Secrets come from files: --token-file (join token), --server-key-file (of `rivulet keys`),
--twilio-token-file (Twilio's auth token)."""

STATUS_PORT = 8771
TIMEOUT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "what", nargs="?", choices=("node", "core", "status"), default="node", help="default: node"
    )
    parser.add_argument("--doctor", action="store_true", help="say what this machine can carry")
    parser.add_argument("--json", action="store_true", help="status and doctor as JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append transcripts (JSON lines)")
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="of the server: a core's /place, a node's /v1/stream, /l16 and /asterisk ask for one",
    )
    _add_link(parser.add_argument_group("link"))
    _add_node(parser.add_argument_group("node"))
    _add_feeds(parser.add_argument_group("feeds"))
    core = parser.add_argument_group("core")
    core.add_argument(
        "--server", default="ws://127.0.0.1:8765/v1/stream", metavar="URL", help="who recognises"
    )
    core.add_argument("--server-key-file", type=Path, metavar="FILE", help="a key of that server")
    core.add_argument("--listen", default="127.0.0.1:8770", metavar="HOST:PORT")
    core.add_argument(
        "--store", default="", help="the server's --store: sessions that nodes leave go on there"
    )
    core.add_argument("--camara", metavar="URL", help="operator's Simple Edge Discovery v2")
    core.add_argument("--camara-token-file", type=Path, help="access token, read each time")
    core.add_argument("--zones", type=Path, help='JSON: {"zone name": "our URL there"}')


def _add_link(group: Any) -> None:
    group.add_argument(
        "--core",
        metavar="URL",
        help="tls://HOST:PORT, or tcp://HOST:PORT on loopback or inside a tunnel",
    )
    group.add_argument("--cert", type=Path, help="our certificate (PEM)")
    group.add_argument("--key", type=Path, help="its key")
    group.add_argument("--ca", type=Path, help="the authority that signed the other side")
    group.add_argument("--core-name", help="the name in the core's certificate, if not HOST")
    group.add_argument(
        "--token-file", type=Path, help="join token; at the core one a line, each admits one node"
    )


def _add_node(group: Any) -> None:
    group.add_argument("--name", default=socket.gethostname(), help="default: the host's name")
    group.add_argument("--zone", default="")
    group.add_argument(
        "--peer", metavar="HOST:PORT", help="where other nodes fetch sessions that move to them"
    )
    group.add_argument("--url", default="", help="where users find this node: wss://...")
    group.add_argument("--policy", choices=("core", "core+local", "edge"), default="core")
    group.add_argument("--latency", choices=("low", "balanced", "accurate"))
    group.add_argument("--language")
    group.add_argument("--spill", type=Path, metavar="FOLDER", help="for audio of long cuts")
    group.add_argument("--spill-mb", type=int, default=1024)
    group.add_argument("--memory-s", type=int, default=60, help="audio of a leg in memory")
    group.add_argument("--max-legs", type=int, default=1_000)
    group.add_argument(
        "--voice-gate", action="store_true", help="calls send no audio where nobody speaks"
    )
    group.add_argument("--model", default="", help="for recognising here")
    group.add_argument("--slots", type=int, default=16, help="streams recognised here")


def _add_feeds(group: Any) -> None:
    group.add_argument("--bind", default="127.0.0.1", metavar="HOST", help="where feeds arrive")
    group.add_argument("--audiosocket", type=int, metavar="PORT", help="Asterisk AudioSocket")
    group.add_argument("--uuid", action="append", default=[], help="a call AudioSocket may bring")
    group.add_argument(
        "--web",
        type=int,
        metavar="PORT",
        default=STATUS_PORT,
        help=f"status page, /twilio, /asterisk, /l16 (default {STATUS_PORT})",
    )
    group.add_argument("--twilio-url", default="", help="wss://... as Twilio knows it")
    group.add_argument("--twilio-token-file", type=Path)
    group.add_argument("--audiohook-key-file", type=Path, help="API key that Genesys sends")
    group.add_argument(
        "--audiohook-secret-file", type=Path, help="client secret: signatures are demanded"
    )
    group.add_argument("--rtp", type=int, metavar="PORT", help="RTP: G.711, G.722, L16, Opus")
    group.add_argument(
        "--rtp-from",
        action="append",
        default=[],
        metavar="NETWORK",
        help="who may send RTP (10.0.0.0/8); default: anybody who reaches the port",
    )
    group.add_argument(
        "--codec", action="append", default=[], metavar="PT=NAME", help="96=L16/16000, 111=opus"
    )
    group.add_argument("--window-ms", type=int, default=60, help="wait for late RTP packets")
    group.add_argument(
        "--idle-s",
        type=int,
        default=60,
        help="a call that says nothing for so long is over; RTP ends at once with RTCP's BYE",
    )


def run(args: argparse.Namespace) -> int:
    """Run what was asked for."""
    if args.doctor:
        return _doctor(args)
    if args.what == "status":
        return _status(args)
    return _core(args) if args.what == "core" else _node(args)


# ---- node


def _node(args: argparse.Namespace) -> int:
    from edge.run import NodeSettings, RunError, run_node
    from server import logs
    from server.config import ServerConfig

    if args.core is None and args.policy != "edge":
        raise CommandError(f"the policy {args.policy} needs --core; --policy edge does without")
    logs.configure()
    local = None
    if args.policy != "core":
        local = ServerConfig(port=0, workers=1, slots=args.slots, model=args.model)
    settings = NodeSettings(
        node=_node_config(args),
        feeds=_feeds(args),
        core=None if args.core is None else _address(args),
        zone=args.zone,
        url=args.url,
        peers=_peers(args),
        token=_secret(args.token_file),
        local=local,
        out=args.out,
    )

    def announce(ports: Any) -> None:
        opened = {"AudioSocket": ports.audiosocket, "web": ports.web, "RTP": ports.rtp}
        told = ", ".join(f"{name} {port}" for name, port in opened.items() if port)
        sys.stdout.write(f"edge node {args.name}, policy {args.policy}: {told}\n")
        sys.stdout.flush()

    try:
        asyncio.run(run_node(settings, announce))
    except RunError as error:
        raise CommandError(str(error)) from error
    return 0


def _node_config(args: argparse.Namespace) -> Any:
    from edge.node import NodeConfig

    if args.spill is not None and not args.spill.is_dir():
        raise CommandError(f"--spill {args.spill}: there is no such folder")
    if args.voice_gate and find_spec("webrtcvad") is None:
        raise CommandError("--voice-gate needs a package: pip install -e '.[edge]'")
    return NodeConfig(
        name=args.name,
        policy=args.policy,
        latency=args.latency,
        language=args.language,
        memory_ms=args.memory_s * 1000,
        spill_folder=args.spill,
        spill_bytes=args.spill_mb << 20,
        max_legs=args.max_legs,
        voice_gate=args.voice_gate,
    )


def _feeds(args: argparse.Namespace) -> Any:
    from edge.adapters.rtcp import PAYLOAD_TYPES
    from edge.adapters.rtp import STATIC, codec_of
    from edge.listeners import FeedConfig

    if args.idle_s <= 0:
        raise CommandError("--idle-s is a number of seconds above 0")
    codecs = dict(STATIC)
    for given in args.codec:
        number, _, name = given.partition("=")
        try:
            codecs[int(number)] = codec_of(name)
        except ValueError as error:
            raise CommandError(f"--codec {given}: {error}") from error
        if int(number) not in range(128) or int(number) in PAYLOAD_TYPES:
            raise CommandError(f"--codec {given}: PT is 0 to 127, less the 64 to 95 that RTCP has")
    return FeedConfig(
        host=args.bind,
        audiosocket_port=args.audiosocket,
        calls=frozenset(args.uuid),
        web_port=STATUS_PORT if args.web is None else args.web,
        keyring=_keyring(args),
        twilio_url=args.twilio_url,
        twilio_secret=_secret(args.twilio_token_file),
        audiohook_key=_secret(args.audiohook_key_file),
        audiohook_secret=_client_secret(args.audiohook_secret_file),
        rtp_port=args.rtp,
        rtp_from=_networks(args.rtp_from),
        codecs=codecs,
        window_s=args.window_ms / 1000,
        idle_s=args.idle_s,
    )


def _networks(given: list[str]) -> tuple[Any, ...]:
    try:
        return tuple(ipaddress.ip_network(network) for network in given)
    except ValueError as error:
        raise CommandError(f"--rtp-from: {error}") from error


def _address(args: argparse.Namespace) -> Any:
    from edge.uplink import CoreAddress

    url = urlsplit(args.core)
    try:
        port = url.port
    except ValueError:
        port = None
    if url.scheme not in ("tls", "tcp") or not url.hostname or port is None:
        raise CommandError(f"--core is tls://HOST:PORT or tcp://HOST:PORT, not {args.core}")
    tls = _tls(args, is_server=False) if url.scheme == "tls" else None
    return CoreAddress(host=url.hostname, port=port, tls=tls, name=args.core_name)


def _tls(args: argparse.Namespace, *, is_server: bool) -> ssl.SSLContext:
    from edge.tls import Identity, TlsError, context

    if None in (args.cert, args.key, args.ca):
        raise CommandError("TLS needs --cert, --key and --ca")
    try:
        identity = Identity(certificate=args.cert, key=args.key, authority=args.ca)
        return context(identity, is_server=is_server)
    except TlsError as error:
        raise CommandError(str(error)) from error


def _peers(args: argparse.Namespace) -> Any:
    from edge.run import PeerSettings

    if args.peer is None:
        return None
    host, _, port = args.peer.rpartition(":")
    if not host or not port.isdecimal():
        raise CommandError(f"--peer is HOST:PORT, not {args.peer}")
    door, asking = None, None
    if args.cert is not None:
        door, asking = _tls(args, is_server=True), _tls(args, is_server=False)
    return PeerSettings(host=host, port=int(port), door_tls=door, asking_tls=asking)


def _secret(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        secret = path.read_text().strip()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"{path}: this is no text") from error
    if not secret:  # it would let everybody in
        raise CommandError(f"{path}: there is nothing in it")
    return secret


def _client_secret(path: Path | None) -> str:
    from edge.adapters.signature import Signatures

    secret = _secret(path)
    if path is not None:
        try:
            Signatures(secret)
        except ValueError as error:
            raise CommandError(f"{path}: {error}") from error
    return secret


# ---- core


def _core(args: argparse.Namespace) -> int:
    from edge.core import CoreConfig
    from edge.run import CoreSettings, RunError, run_core
    from server import logs

    logs.configure()
    host, _, port = args.listen.rpartition(":")
    if not host or not port.isdecimal():
        raise CommandError(f"--listen is HOST:PORT, not {args.listen}")
    config = CoreConfig(
        url=args.server,
        key=_secret(args.server_key_file),
        host=host,
        port=int(port),
        tls=_tls(args, is_server=True) if args.cert else None,
        tokens=frozenset(_secret(args.token_file).split()),
    )

    def announce(opened: int) -> None:
        sys.stdout.write(f"edge nodes dial {host}:{opened}; {args.server} recognises\n")
        sys.stdout.flush()

    try:
        settings = CoreSettings(
            core=config,
            out=args.out,
            web_port=args.web,
            zones=_zones(args),
            keyring=_keyring(args),
            store=args.store,
        )
        asyncio.run(run_core(settings, announce))
    except RunError as error:
        raise CommandError(str(error)) from error
    return 0


def _zones(args: argparse.Namespace) -> Any:
    from edge.camara import Zones, read_urls

    if args.camara is None:
        return None
    if urlsplit(args.camara).scheme not in ("https", "http"):
        raise CommandError(f"--camara is https://HOST, not {args.camara}")
    try:
        urls = {} if args.zones is None else read_urls(args.zones)
    except (OSError, ValueError) as error:
        raise CommandError(f"--zones {args.zones}: {error}") from error
    return Zones(root=args.camara, token_file=args.camara_token_file, urls=urls)


def _keyring(args: argparse.Namespace) -> Any:
    from server.keys import KeyFileError, Keyring

    try:
        return None if args.keys is None else Keyring(args.keys)
    except KeyFileError as error:
        raise CommandError(str(error)) from error


# ---- status and doctor


def _status(args: argparse.Namespace) -> int:
    from clients.console import clean, table

    port = STATUS_PORT if args.web is None else args.web
    url = f"http://127.0.0.1:{port}/status"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
            state = json.load(reply)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise CommandError(f"no node answers at {url}; --web PORT names another") from error
    if args.json:
        sys.stdout.write(json.dumps(state) + "\n")
        return 0
    said, tables = _core_state(state) if "core" in state else _node_state(state)
    sys.stdout.write(clean(said) + "\n")
    for header, values in tables:
        if rows := [tuple(str(value[key]) for key in header.values()) for value in values]:
            sys.stdout.write(table(tuple(header), rows, width=100, flexible=1) + "\n")
    return 0


_Tables = list[tuple[dict[str, str], list[dict[str, Any]]]]
"""Columns with their keys, rows."""


def _node_state(state: dict[str, Any]) -> tuple[str, _Tables]:
    link = state["link"]
    reached = "no core" if link is None else "up" if link["is_up"] else f"down: {link['reason']}"
    said = (
        f"{state['node']}, policy {state['policy']}, link {reached}; "
        f"{state['spilled_bytes']} B on disk, samples lost: {state['lost_samples'] or 0}"
    )
    columns = {"leg": "leg", "name": "name", "codec": "encoding", "heard s": "seconds"}
    return said, [(columns | {"backlog": "backlog", "finals": "finals"}, state["legs"])]


def _core_state(state: dict[str, Any]) -> tuple[str, _Tables]:
    nodes = [node | {"state": "up" if node["is_up"] else "down"} for node in state["nodes"]]
    here = {"node": "node", "zone": "zone", "link": "state", "rtt ms": "rtt_ms", "load": "load"}
    here |= {"legs": "legs", "slots": "slots", "backlog s": "backlog_s"}
    legs = {"node": "node", "name": "name", "policy": "policy", "received s": "received_s"}
    legs |= {"decoded s": "done_s", "finals": "finals"}
    count = {0: "no node yet", 1: "1 node"}.get(len(nodes), f"{len(nodes)} nodes")
    said = f"core {state['core']}: {count}"
    return said, [(here, nodes), (legs, state["legs"])]


def _doctor(args: argparse.Namespace) -> int:
    from edge.doctor import examine
    from server.cli import CliError, ModelChoice

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    choice = None if args.policy == "core" else ModelChoice(model=args.model, slots=args.slots)
    try:
        findings = examine(choice, args.spill)
    except CliError as error:
        raise CommandError(str(error)) from error
    if args.json:
        report = {found.name: found.value for found in findings}
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        for found in findings:
            mark = " " if found.is_good else "!"
            sys.stdout.write(f"{mark} {found.name:<18} {found.value}\n")
    return 0 if all(found.is_good for found in findings) else 1
