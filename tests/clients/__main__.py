"""``make clients``: every real client against one server, a table, a line of JSON.

Does: run the cases one after another, compare words, write tests/bench/results/clients.json.
Does not know: what the clients say.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.clients.rig import CASES, ROOT, NoEnvironment, Outcome, play, serving

RESULTS = ROOT / "tests" / "bench" / "results" / "clients.json"
TURNS = RESULTS.with_name("turns.json")
"""Written by ``python -m tests.bench.turns``."""
ROW = "{:<24} {:<28} {:>8}  {}"


async def run() -> tuple[list[Outcome], list[str]]:
    """Play every case on one server."""
    outcomes, failures = list[Outcome](), list[str]()
    print(ROW.format("case", "client", "messages", "same words as the native wire"))
    with tempfile.TemporaryDirectory() as folder:
        async with serving() as server:
            for case in CASES:
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


def measured_turns() -> dict[str, float | None]:
    """Return the time from the end of speech to the final as last measured; None: it was not."""
    figures = json.loads(TURNS.read_text()) if TURNS.exists() else {}
    return {name: figures.get(name) for name in ("eos_to_final_p50_ms", "eos_to_final_p99_ms")}


def main() -> int:
    """Print the table; the last line is one JSON object."""
    outcomes, failures = asyncio.run(run())
    same = sum(outcome.is_same for outcome in outcomes)
    figures = {
        "clients": len({outcome.client for outcome in outcomes}),
        "cases": len(CASES),
        "passed": same,
        "failed": failures,
        "same_words": same == len(CASES),
        **measured_turns(),
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
    RESULTS.write_text(json.dumps(figures | {"rows": rows}, indent=1) + "\n")
    print(json.dumps(figures))
    return 0 if same == len(CASES) else 1


if __name__ == "__main__":
    sys.exit(main())
