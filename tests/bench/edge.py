"""``make edge``: what a relay costs, what a cut costs, what goes over the link.

Does: a core with a scripted engine (text is a function of the audio, so a lost word is seen), a
bad link, a node with legs at the pace of speech; write tests/bench/results/edge.json.
Does not know: real networks and real models. Delays are those of this machine under its load,
which is in the result: on a busy one they say nothing of the node and are null in the last line;
words lost are counted all the same.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from clients.connection import connect
from clients.load.host import machine
from edge import doctor
from edge.uplink import Timing
from edge.wire import Frame
from server.cli import ModelChoice
from server.wire.messages import Ack, AudioFormat
from tests.bench.edge_backhaul import backhaul
from tests.bench.edge_calls import telephony
from tests.bench.edge_cuts import (
    DELAY_S,
    LOSS,
    PACKET_S,
    calls_of,
    catch_up_rate,
    cut,
    ended,
    fed,
)
from tests.bench.edge_legs import most_recognised, relayed
from tests.bench.edge_moves import state_handovers
from tests.edge_rig import (
    PACKET,
    RATE_HZ,
    another_node,
    keep,
    rig,
    sentences,
    spoken,
)
from tests.netlink import Namespaces, NotPermitted, namespaces

RESULTS = Path(__file__).parent / "results" / "edge.json"
PCM_KBPS = (32_000 + 50 * 66 + 50 * 52) * 8 / 1000
"""16 kHz PCM in packets of 20 ms over a WebSocket and TCP, bare acks included."""
PACKETS = "packets between two network namespaces, late and lost in a process of ours (no netem)"
PART_S = 300.0
NODE_S = 6.0
"""For each number of legs of one node process."""


async def edge_policy(legs: int, seconds: float) -> dict[str, float]:
    """Audio bytes and kilobits per second under the policy ``edge``."""
    async with rig("edge", timing=Timing(), delay_s=DELAY_S, slots=legs + 16) as r:
        calls = calls_of(r, legs, seconds)
        async with fed(calls):
            await ended(calls, seconds + 60)
        audio = sum(call.leg.leg.audio_frames for call in calls)
        bits = (r.link.up.on_the_link + r.link.down.on_the_link) * 8
        lost = sum(call.lost_words() for call in calls)
        spoken_s = sum(len(call.audio) for call in calls) / RATE_HZ
        return {"audio_bytes": audio, "kbps": round(bits / spoken_s / 1000, 1), "words_lost": lost}


async def added_latency_ms(seconds: float) -> dict[str, float]:
    """Due time of a packet to its arrival at the core through a node; directly, to its sending."""
    clock, count = asyncio.get_running_loop().time, round(seconds / PACKET_S)
    direct = list[float]()
    async with rig(timing=Timing()) as r:
        leg = r.open()
        await r.until(lambda: bool(r.core.legs))
        held, born = next(iter(r.core.legs.values())).leg, clock()
        arrived, take = dict[int, float](), held._take

        def note(frame: Frame, samples: int, data: bytes | None) -> None:
            take(frame, samples, data)
            arrived[frame.offset + samples] = clock()

        held._take = note  # type: ignore[method-assign]
        for n in range(count):
            due = born + (n + 1) * PACKET_S
            await asyncio.sleep(max(0.0, due - clock()))
            leg.append(PACKET, bytes(PACKET))
        await r.until(lambda: held.received == count * PACKET)
        relayed = [at - born - end / RATE_HZ for end, at in arrived.items()]
        leg.end()
        await leg.is_over.wait()
        audio = AudioFormat(encoding="mulaw", rate=RATE_HZ)
        async with connect(r.server.addresses.websocket, audio=audio) as connection:
            reading, born = asyncio.create_task(_read(connection)), clock()
            for n in range(count):
                due = born + (n + 1) * PACKET_S
                await asyncio.sleep(max(0.0, due - clock()))
                await connection.send(bytes(PACKET))
                direct.append(clock() - due)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    return {
        "relayed_p50": round(statistics.median(relayed) * 1000, 2),
        "direct_send_p50": round(statistics.median(direct) * 1000, 2),
    }


async def _read(connection: Any) -> None:
    async for message in connection:
        assert not isinstance(message, Ack) or message.at >= 0


async def handovers(count: int) -> dict[str, float]:
    """Move one session between two nodes; gap = from the move to the first new audio acked."""
    gaps, clock = list[float](), time.monotonic
    async with rig(timing=Timing()) as r, another_node(r, "n2", timing=Timing()) as second:
        texts = sentences(max(4, count // 6))
        audio, text = spoken(texts), " ".join(texts)
        leg, at, finals = r.open(), 0, dict[int, str]()
        step = len(audio) // (count + 1) // PACKET * PACKET
        for number in range(count):
            end = at + step
            leg.append(end - at, audio[at:end])
            begun = clock()
            old, leg = leg, (second, r.node)[number % 2].open(leg.ticket())
            await leg.is_placed.wait()
            at = leg.leg.ring.head
            leg.append(PACKET, audio[at : at + PACKET])
            at += PACKET
            while leg.leg.acked < at:  # noqa: ASYNC110 - polled, so that the node is as it is
                await asyncio.sleep(0.001)
            gaps.append(clock() - begun)
            await old.is_over.wait()
            keep(finals, old)
        leg.append(len(audio) - at, audio[at:])
        leg.end()
        await leg.is_over.wait()
        keep(finals, leg)
        words = " ".join(filter(None, finals.values()))
    return {
        "handovers": count,
        "gap_p50_ms": round(statistics.median(gaps) * 1000, 1),
        "gap_p99_ms": round(sorted(gaps)[-1 - count // 100] * 1000, 1),
        "is_text_identical": words == text,
    }


async def in_time(part: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Give a part up that takes too long: a busy machine may never catch up with speech."""
    try:
        async with asyncio.timeout(PART_S):
            return await part
    except TimeoutError:
        return {"why": f"not measured within {PART_S:g} s"}


async def sustained(
    part: Callable[[int, float], Coroutine[Any, Any, dict[str, Any]]], counts: list[int]
) -> dict[str, Any]:
    """Measure one node process with so many legs, one count after the other."""
    rows = [await part(count, NODE_S) for count in counts]
    return {"rows": rows, "one_core": max(row["on_one_core"] for row in rows)}


async def carries() -> dict[str, Any]:
    """What one node on one core takes: measured costs, with a third of the core kept free."""
    findings = await asyncio.to_thread(doctor.examine, ModelChoice(model="", slots=16), None)
    return {found.name: found.value for found in findings}


async def measure(
    args: argparse.Namespace, between: Namespaces | None, medium: str
) -> dict[str, Any]:
    """Measure everything; parts that fail say so and do not stop the others."""
    legs = 4 if args.quick else args.legs
    result: dict[str, Any] = {"machine": machine(), "medium": medium}
    result |= {"delay_ms": DELAY_S * 2000, "loss": LOSS, "legs": legs, "engine": "scripted"}
    for name, part in _parts(args, legs, between):
        if args.row in ("", name):
            result[name] = await part()
            if name != "cuts":
                print(json.dumps({name: result[name]}), flush=True)
    return result


async def cut_rows(
    cuts: list[float], legs: int, between: Namespaces | None
) -> list[dict[str, Any]]:
    """Measure one cut after the other, and say each as it is known."""
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for seconds in cuts:
            rate = await catch_up_rate(legs, between)  # each time: a machine has other work too
            rows.append(await cut(seconds, legs, Path(folder), rate, between))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _parts(
    args: argparse.Namespace, legs: int, between: Namespaces | None
) -> Iterator[tuple[str, Callable[[], Coroutine[Any, Any, Any]]]]:
    quick, seconds = args.quick, 4.0 if args.quick else 8.0
    yield "cuts", lambda: cut_rows([1.0, 4.0] if quick else args.cuts, legs, between)
    yield "backhaul_kbps", lambda: backhaul(legs, seconds, between)
    yield "backhaul_kbps_one_leg", lambda: backhaul(1, seconds, between)
    yield "backhaul_opus_kbps", lambda: backhaul(legs, seconds, between, is_opus=True)
    yield "backhaul_opus_kbps_one_leg", lambda: backhaul(1, seconds, between, is_opus=True)
    yield "edge_policy", lambda: edge_policy(legs, seconds)
    yield "latency", lambda: added_latency_ms(seconds)
    yield "handover", lambda: handovers(20 if quick else 100)
    yield "handover_state", lambda: in_time(state_handovers(5 if quick else 100))
    yield (
        "handover_state_model",
        lambda: in_time(state_handovers(3 if quick else 30, has_model=True)),
    )
    yield "relay_one_node", lambda: in_time(sustained(relayed, [50] if quick else [200, 400]))
    start = 8 if quick else 48
    yield "local_one_node", lambda: in_time(most_recognised(NODE_S, start=start))
    yield "calls", lambda: in_time(telephony(8.0 if quick else 25.0))
    yield "carries", carries


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return the last line; a busy machine measures no delays, those are null."""
    latency, cuts = result["latency"], result["cuts"]
    is_calm = result["load_average"] <= (os.cpu_count() or 1)
    delays = {
        "added_latency_ms": round(latency["relayed_p50"] - latency["direct_send_p50"], 2),
        "seconds_to_live": max(row["first_ack_s"] or 0.0 for row in cuts),
        "new_audio_acked_s": max(row["new_audio_acked_s"] or 0.0 for row in cuts),
        "words_caught_up_in_bound": all(row["is_within_bound"] for row in cuts),
        "handover_gap_p99_ms": result["handover"]["gap_p99_ms"],
        "handover_state_gap_p99_ms": result["handover_state"].get("gap_p99_ms"),
        "handover_state_model_gap_p99_ms": result["handover_state_model"].get("gap_p99_ms"),
    }
    return {
        **(delays if is_calm else dict.fromkeys(delays)),
        "partition_words_lost": sum(row["words_lost"] for row in cuts),
        "words": sum(row["words"] for row in cuts),
        "cuts_s": [row["cut_s"] for row in cuts],
        "handovers": result["handover"]["handovers"],
        "is_text_identical_after_handovers": result["handover"]["is_text_identical"],
        "is_text_identical_after_state_handovers": result["handover_state"].get(
            "is_text_identical"
        ),
        "legs_one_core_relayed": result["relay_one_node"].get("one_core"),
        "streams_one_core_local": result["local_one_node"].get("one_core"),
        "call_wer_against_clean": {
            name: row["wer_clean"]
            for name, row in result["calls"].items()
            if isinstance(row, dict) and "wer_clean" in row
        },
        "one_core": result["carries"],
        "backhaul_kbps": result["backhaul_kbps"],
        "backhaul_share_of_pcm": round(result["backhaul_kbps"] / PCM_KBPS, 3),
        "backhaul_opus_kbps": (opus_kbps := result.get("backhaul_opus_kbps")),
        "backhaul_opus_share_of_pcm": opus_kbps and round(opus_kbps / PCM_KBPS, 3),
        "edge_policy_audio_bytes": result["edge_policy"]["audio_bytes"],
        "edge_policy_kbps": result["edge_policy"]["kbps"],
        "legs": result["legs"],
        "load_average": result["load_average"],
        "medium": result["medium"],
    }


def main() -> int:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="make edge ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few legs, short cuts")
    parser.add_argument("--legs", type=int, default=20)
    parser.add_argument("--cuts", type=float, nargs="*", default=[1.0, 8.0, 30.0, 120.0])
    parser.add_argument(
        "--row", default="", metavar="NAME", help="measure it alone, into the results there are"
    )
    args = parser.parse_args()
    try:
        with namespaces() as between:
            result = asyncio.run(measure(args, between, PACKETS))
    except NotPermitted as error:
        medium = f"loopback proxy (userspace); no network namespaces: {error}"
        result = asyncio.run(measure(args, None, medium))
    result["load_average"] = round(os.getloadavg()[1], 1)
    if args.row:
        if args.row not in result:
            parser.error(f"no row is called {args.row}")
        load, row = result["load_average"], result[args.row]
        result = json.loads(RESULTS.read_text()) | {args.row: row}
        result.setdefault("load_average_of_later_rows", {})[args.row] = load
    result["summary"] = summary(result)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result | {"is_quick": args.quick}, indent=1) + "\n")
    print(json.dumps(result["summary"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
