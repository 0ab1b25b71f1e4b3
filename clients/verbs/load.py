"""``rivulet load``: the load laboratory.

Does: arguments, one look whether a server answers, results as JSON and as a picture.
Does not know: how load is made.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from clients.captions import HINTS
from clients.console import can_redraw
from clients.demo import SAMPLES
from clients.errors import CommandError
from clients.load.caller import CallFailed, Target, check
from clients.load.judge import Limits
from clients.load.lab import Laboratory, beyond, eased, short, system_of
from clients.load.material import PAUSES_S, material
from clients.load.picture import System, draw
from clients.load.plan import Traffic
from clients.load.search import Search
from clients.load.view import View
from clients.load.wires import WIRES
from clients.reading import read_json

EXAMPLES = """\
examples:
  rivulet load                                       N* of ws://127.0.0.1:8765, the class `balanced`
  rivulet load --streams 40 --seconds 600            one run, ten minutes
  rivulet load --quick --latency low,accurate        under five minutes, a mix of classes
  rivulet load ws://127.0.0.1:6006 --wire sherpa-onnx --latency 560 --wer-rise 0.001
  rivulet load --draw ours.json nemo.json --picture lag.svg      several reports in one picture
  rivulet load ws://127.0.0.1:8765 --wire deepgram --latency 560    any server with Deepgram's wire

N* is the most streams with p99 chunk lag <= min(chunk, 200 ms), p99 finalize delay <= 300 ms, drift
<= 10 ms a minute and no transcript changed. The last line is one JSON object.
Most wires of others do not tell how far a server has decoded: there is no chunk lag there, and N*
goes by finals and transcripts alone."""
DEFAULT_URL = "ws://127.0.0.1:8765"
QUICK = {"seconds": 8.0, "ramp": 2.0, "warm": 2.0}
FULL = {"seconds": 60.0, "ramp": 4.0, "warm": 6.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, metavar="URL")
    parser.add_argument("--wire", choices=[*WIRES], default="rivulet")
    parser.add_argument("--token", help="of the server, if it asks for one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="lag by streams and time")
    parser.add_argument(
        "--draw", nargs="+", type=Path, metavar="FILE", help="only draw these reports"
    )
    _add_search(parser.add_argument_group("runs"))
    _add_traffic(parser.add_argument_group("traffic"))


def _add_search(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--streams", type=int, metavar="N", help="one run instead of a search")
    group.add_argument("--most", type=int, default=1000, metavar="N", help="streams at most")
    group.add_argument("--start", type=int, default=1, metavar="N", help="streams to begin with")
    group.add_argument("--seconds", type=float, metavar="S", help="measured a run (60)")
    group.add_argument("--quick", action="store_true", help="8 s a run, N* held once")
    group.add_argument(
        "--wer-rise",
        type=float,
        metavar="SHARE",
        help="transcripts may change if WER rises by no more than this (0.001: 0.1 points)",
    )
    group.add_argument(
        "--late", type=float, default=5.0, metavar="MS", help="p99 lateness that voids a run"
    )


def _add_traffic(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--latency", default="balanced", metavar="LIST", help="classes or ms of a chunk, mixed"
    )
    group.add_argument("--shape", choices=[*PAUSES_S], default="speech")
    group.add_argument("--packets", default="20,40,80,100", metavar="LIST", help="ms, mixed")
    group.add_argument("--jitter", type=float, default=10.0, metavar="MS")
    group.add_argument("--churn", type=float, default=0.5, metavar="SHARE")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--samples", type=Path, default=SAMPLES, metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Measure; the exit code is 1 when not even one stream was held."""
    for file in (args.json, args.picture):
        if file is not None and not file.parent.is_dir():
            raise CommandError(f"{file.parent}: there is no such folder")
        if file is not None and file.is_dir():
            raise CommandError(f"{file}: this is a folder")
    if args.draw:
        return _draw(args.draw, args.picture)
    lab = laboratory(args)
    lab.listen()
    search = None
    if args.streams:
        point = lab.run(args.streams)
        is_held = point.verdict.value == "held"
    else:
        confirm = 0 if args.quick else 2
        search = lab.search(Search(most=args.most, start=args.start, confirm=confirm))
        is_held = search.best > 0
        if is_held and search.broken is not None:
            lab.run(eased(search.best))
            lab.run(beyond(search.best))
    report = lab.report(search)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.picture:
        args.picture.write_text(draw([system_of(args.wire, report)], limit_ms=lab.limits.lag_ms))
    sys.stdout.write(json.dumps(short(report)) + "\n")
    return 0 if is_held else 1


def laboratory(args: argparse.Namespace) -> Laboratory:
    """Return a laboratory before a server that answers. Raises CommandError."""
    target = Target(url=_url(args.url, args.wire), wire=args.wire, token=args.token)
    lengths = QUICK if args.quick else FULL
    try:
        traffic = Traffic(
            seconds=args.seconds or lengths["seconds"],
            ramp_s=lengths["ramp"],
            warm_s=lengths["warm"],
            latencies=tuple(args.latency.split(",")),
            packets_ms=tuple(int(ms) for ms in args.packets.split(",")),
            jitter_ms=args.jitter,
            churn=args.churn,
            seed=args.seed,
        )
        if args.streams is not None and args.streams < 1:
            raise ValueError("a run needs one stream at least")
        Search(most=args.most, start=args.start)
        for latency in traffic.latencies:
            asyncio.run(check(target, latency))
    except ValueError as error:
        raise CommandError(str(error)) from error
    except CallFailed as failed:
        raise CommandError(_why(target, str(failed))) from failed
    return Laboratory(
        target=target,
        traffic=traffic,
        material=material(args.samples, args.shape, traffic.total_s, seed=args.seed),
        limits=Limits(late_ms=args.late, wer_rise=args.wer_rise),
        view=View(sys.stderr, can_redraw(sys.stderr)),
    )


def _url(url: str, wire: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise CommandError(f"{url!r} is no address of a WebSocket: ws://HOST:PORT or wss://HOST")
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{WIRES[wire].path}"


def _why(target: Target, reason: str) -> str:
    if reason.startswith("no connection"):
        return f"no server answers at {target.url} {reason.removeprefix('no connection ')}"
    if reason.startswith("HTTP"):
        hint = f"; {HINTS['unauthorized']}" if reason.startswith("HTTP 401") else ""
        return f"{target.url} takes no streams: it answered {reason}{hint}"
    return f"{target.url} refused a stream: {reason}"


def _draw(files: list[Path], picture: Path | None) -> int:
    if picture is None:
        raise CommandError("--draw needs --picture FILE.svg")
    systems = [_read(file) for file in files]
    picture.write_text(draw(systems, limit_ms=Limits().lag_ms))
    return 0


def _read(file: Path) -> System:
    report = read_json(file, wanted := "a report of `rivulet load --json`")
    try:
        return system_of(file.stem, report)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CommandError(f"{file} is no report: give {wanted}") from error
