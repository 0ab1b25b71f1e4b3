"""``python -m tests.bench.report``: put the measured figures into README.md.

Does: results/*.json -> the tables between README's markers; nothing is typed by hand.
Does not know: how anything was measured.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
OLD_DEFINITION = (
    "Most streams with p99 chunk lag <= min(chunk, 200 ms) and p99 finalize delay <= 300 ms"
)
"""Of results that are older than the load laboratory."""
BEGIN, END = "<!-- measured", "<!-- /measured -->"


def main() -> int:
    """Rewrite the measured part of README."""
    text = README.read_text()
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    note = ": written by `python -m tests.bench.report`, not by hand -->\n"
    README.write_text(head + BEGIN + note + "\n".join(sections()) + "\n" + END + tail)
    return 0


def sections() -> list[str]:
    """Return the tables there are results for."""
    parts = []
    for name, section in (("sustained", _sustained), ("accuracy", _accuracy)):
        path = HERE / "results" / f"{name}.json"
        if path.exists():
            parts += section(json.loads(path.read_text()))
    return parts


def _sustained(result: dict[str, Any]) -> list[str]:
    lines = [
        f"**Streams at the pace of speech** (`make bench`; {result['machine']}; "
        f"{result['workers']} engine process, {result['seconds']:.0f} s a point). "
        f"{result.get('definition', OLD_DEFINITION)}:",
        "",
        "| model | look-ahead (chunk) | precision | streams | lag p50 / p95 / p99 ms "
        "| finalize p50 / p99 ms | memory a stream |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        at = row["at"]
        lag = " / ".join(f"{at[f'lag_{p}_ms']:.0f}" for p in ("p50", "p95", "p99"))
        ends = " / ".join(f"{at[f'finalize_{p}_ms']:.0f}" for p in ("p50", "p99"))
        lines.append(
            f"| {row['model']} | {row['look_ahead']} ({row['chunk_ms']} ms) | {row['precision']} "
            f"| {row['streams']} | {lag} | {ends} | {row['bytes_per_stream'] / 1e6:.1f} MB |"
        )
    return [*lines, ""]


def _accuracy(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    columns = sorted({(row["precision"], row["look_ahead"]) for row in rows})
    wer = {(row["set"], row["precision"], row["look_ahead"]): row["wer"] for row in rows}
    heads = [f"{precision}, look-ahead {look_ahead}" for precision, look_ahead in columns]
    lines = [
        f"**Word error rate, %** of the embedded model through the streaming engine "
        f"(`make accuracy`; {result['machine']}; evaluation sets that are not part of this "
        "repository):",
        "",
        "| set | " + " | ".join(heads) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in sorted({row["set"] for row in rows}):
        cells = [f"{100 * wer[name, *column]:.1f}" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


if __name__ == "__main__":
    raise SystemExit(main())
