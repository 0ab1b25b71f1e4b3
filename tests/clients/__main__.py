"""``make clients``: real clients, a meeting with readers, ends of speech; a line of JSON.

Does: run the cases one after another, compare words; hold the meeting; measure from the end of
speech to the final; write all of one run to tests/bench/results/clients.json.
Does not know: what the clients say, how meeting and turns are measured.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.connection import RivuletError
from clients.errors import CommandError
from tests.bench import turns
from tests.browser.cdp import ScriptError
from tests.clients.meeting import meet
from tests.clients.rig import CASES, ROOT, Case, NoEnvironment, Outcome, play, serving

RESULTS = ROOT / "tests" / "bench" / "results" / "clients.json"
PICTURES = ROOT / "build" / "clients-pictures"
ROW = "{:<24} {:<28} {:>8}  {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    cases: Sequence[Case] = CASES
    viewers: int = 200
    meeting_s: float = 60.0
    streams: int = 20
    seconds: float = 180.0


QUICK = Size(
    cases=tuple({case.driver: case for case in reversed(CASES)}.values()),
    viewers=20,
    meeting_s=12.0,
    streams=2,
    seconds=20.0,
)
"""A case of each driver, and little of the rest."""


async def run(cases: Sequence[Case]) -> tuple[list[Outcome], list[str]]:
    """Play the cases on one server."""
    outcomes, failures = list[Outcome](), list[str]()
    print(ROW.format("case", "client", "messages", "same words as the native wire"))
    with tempfile.TemporaryDirectory() as folder:
        async with serving() as server:
            for case in cases:
                try:
                    outcome = await play(case, server, Path(folder))
                except (RuntimeError, NoEnvironment) as error:
                    failures.append(case.name)
                    print(ROW.format(case.name, "-", "-", str(error).splitlines()[-1]))
                    continue
                outcomes.append(outcome)
                same = "yes" if outcome.is_same else "NO"
                messages = outcome.messages or "-"
                print(ROW.format(case.name, outcome.client, messages, same), flush=True)
    return outcomes, failures


def hold_meeting(size: Size) -> dict[str, Any]:
    """Hold the meeting, say how it went."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            held = asyncio.run(
                meet(Path(folder), viewers=size.viewers, seconds=size.meeting_s, pictures=PICTURES)
            )
        except (NoEnvironment, ScriptError, TimeoutError) as error:
            why = str(error).partition("\n")[0] or type(error).__name__
            print(f"no meeting: {why}", flush=True)
            return {"viewers": 0, "failed": why}
    frames = held["engine"]["frames"]
    is_free = frames[0] == frames[1]
    held["passed"] = held["read_by_all"] and held["files_whole"] and is_free and held["words"] > 0
    print(
        f"meeting of {held['participants']} ({held['real']} real voices), {held['viewers']} read: "
        f"{held['words']} words, the same for all: {held['read_by_all']}; files whole: "
        f"{held['files_whole']}; encoder frames without and with readers: "
        f"{frames[0]:.0f}, {frames[1]:.0f}; pictures in {PICTURES.relative_to(ROOT)}",
        flush=True,
    )
    return held


def measure_turns(size: Size) -> dict[str, Any]:
    """Measure from the end of speech to the final."""
    found: dict[str, Any] = {}
    try:
        options = turns.options_of(size.streams)
        found = turns.measure(size.streams, size.seconds, turns.PORT, options)
    except* (RivuletError, CommandError) as errors:
        why = str(errors.exceptions[0])
        print(f"no ends of speech: {why}", flush=True)
    if not found:
        return dict.fromkeys(("eos_to_final_p50_ms", "eos_to_final_p99_ms", "false_share"))
    print(
        f"end of speech to final, {size.streams} streams: p50 {found['eos_to_final_p50_ms']} ms, "
        f"p99 {found['eos_to_final_p99_ms']} ms (own end p50 {found['own_end_p50_ms']}, eager "
        f"{found['eager_end_p50_ms']}; false ends {found['false_share']})",
        flush=True,
    )
    return found


def main() -> int:
    """Print the table; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, writes nothing")
    size = QUICK if (is_quick := parser.parse_args().quick) else Size()
    outcomes, failures = asyncio.run(run(size.cases))
    meeting, ends = hold_meeting(size), measure_turns(size)
    same = sum(outcome.is_same for outcome in outcomes)
    is_measured = ends["eos_to_final_p99_ms"] is not None
    is_good = same == len(size.cases) and meeting.get("passed", False) and is_measured
    figures = {
        "clients": len({outcome.client for outcome in outcomes}),
        "cases": len(size.cases),
        "passed": same,
        "failed": failures,
        "same_words": same == len(size.cases),
        "viewers": meeting["viewers"],
        "meeting_passed": meeting.get("passed", False),
        **{name: ends[name] for name in ("eos_to_final_p50_ms", "eos_to_final_p99_ms")},
        "false_share": ends["false_share"],
    }
    rows = [
        {
            "case": outcome.case,
            "client": outcome.client,
            "messages": outcome.messages or None,
            "same_words": outcome.is_same,
        }
        for outcome in outcomes
    ]
    if not is_quick:
        whole = figures | {"rows": rows, "meeting": meeting, "turns": ends}
        RESULTS.write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(figures))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
