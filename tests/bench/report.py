"""``python -m tests.bench.report``: put the measured figures into README.md.

Does: results/*.json -> the tables between README's markers; nothing is typed by hand. bench.json is
the last `make bench`; bench-amx.json is one of before, on a processor with other instructions.
Does not know: how anything was measured.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
ENGINES = {
    "int8": "rivulet, int8",
    "bf16": "rivulet, bf16",
    "fp32": "rivulet, fp32",
    "nemo": "NeMo 3.0.0 CacheAwareRNNTPipeline, as it ships",
    "nemo_medium": 'the same, matmul precision "medium"',
    "nocache": "the same without cache",
    "buffered": "NeMo BufferedRNNTPipeline, 5.6 s of left context",
    "sherpa": "sherpa-onnx 2.0.1, fp32",
    "sherpa_int8": "sherpa-onnx 2.0.1, int8",
}
PICTURES = [
    "![Chunk lag against streams and against time](tests/bench/results/lag.svg)",
    "",
    "One core, the same weights, fp32 (`python -m tests.bench.drift`): NeMo's buffered windows, "
    "its cache-aware pipeline and ours.",
    "",
    "![Lag of buffered windows, cache-aware NeMo and ours](tests/bench/results/drift.svg)",
    "",
]
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
    parts, measured = [], list[str]()
    for name, section in (
        ("bench", _sustained), ("bench-amx", partial(_sustained, is_defined=True)),
        ("endurance", _endurance),
        ("bench", _capacity), ("bench-amx", _capacity), ("capacity", _capacity),
        ("accuracy", _accuracy), ("tools", _tools), ("faults", _faults), ("edge", _edge),
        ("clients", _clients),
    ):  # fmt: skip
        path = HERE / "results" / f"{name}.json"
        result = json.loads(path.read_text()) if path.exists() else None
        if result and not (section is _capacity and result["machine"] in measured):
            parts += section(result)
            parts += PICTURES if (name, section) == ("bench", _sustained) else []
            measured += [result["machine"]] if section is _capacity else []
    return parts


def _sustained(result: dict[str, Any], *, is_defined: bool = False) -> list[str]:
    definition = "" if is_defined else f". {result['definition']}"
    lines = [
        f"**Streams at the pace of speech** (`make bench`; {result['machine']}; "
        f"{result['workers']} engine process; gateway and load share the other core; "
        f"{result['seconds']:.0f} s a point){definition}:",
        "",
        "| model | look-ahead (chunk) | precision | streams | lag p50 / p95 / p99 ms "
        "| finalize p50 / p99 ms | CPU ms an audio second | memory a stream |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        at = row["at"]
        lag = " / ".join(f"{at[f'lag_{p}_ms']:.0f}" for p in ("p50", "p95", "p99"))
        ends = " / ".join(f"{at[f'finalize_{p}_ms']:.0f}" for p in ("p50", "p99"))
        size = row.get("bytes_per_stream")
        memory = f"{size / 1e6:.1f} MB" if size else "-"
        name = row["model"] + ("" if row["backend"] == "own" else f" in {row['backend']}")
        lines.append(
            f"| {name} | {row['look_ahead']} ({row['chunk_ms']} ms) | {row['precision']} "
            f"| {row['streams']} | {lag} | {ends} | {at['cpu_ms_per_audio_s'] or 0:.0f} "
            f"| {memory} |"
        )
    if gateway := result.get("gateway"):
        lines += [
            "",
            f"A gateway process passed {gateway['packets_per_s_of_a_core']:,} packets of "
            f"{gateway['packet_ms']} ms a second of its core there, with {gateway['streams']} "
            "streams.",
        ]
    return [*lines, ""]


def _endurance(result: dict[str, Any]) -> list[str]:
    live, far = result["live"], result["virtual"]
    at, hour, last = live["figures"], far["parts"][0], far["parts"][-1]
    minutes = live["lag_p50_ms_by_minute"]
    return [
        "**Hours cost what minutes cost** (`python -m tests.bench.endurance`; "
        f"{result['machine']}; {result['model']}, {result['chunk_ms']} ms): "
        f"{at['streams']} streams, 0.8 N\\*, for "
        f"{live['minutes']:.0f} minutes: lag p50 / p99 {at['lag_p50_ms']:.0f} / "
        f"{at['lag_p99_ms']:.0f} ms, drift {at['drift_ms_per_min']:+.2f} ms a minute (median of "
        f"the first minute {minutes[0]:.0f}, of the last {minutes[-1]:.0f} ms). "
        f"{far['hours']:.0f} hours of speech to each of {far['streams']} streams, as fast as it "
        f"goes: a step {hour['step_p50_ms']:.1f} ms in the first tenth, {last['step_p50_ms']:.1f} "
        f"in the last; memory {hour['memory_mb']:.0f} and {last['memory_mb']:.0f} MB.",
        "",
    ]


def _capacity(result: dict[str, Any]) -> list[str]:
    compared = result.get("capacity", result)
    periods = list(compared["periods"])
    lines = [
        "**Capacity of one core in process**, 114M parameters of the published shape with random "
        f"weights, samples to text, left context full ({compared['machine']}; engines take turns, "
        "medians of CPU time; a step of B streams costs a + b B ms, capacity is (0.9 period - a) "
        "/ b; words cost too: tokens a second of audio are those that an engine said):",
        "",
        "| engine | "
        + " | ".join(f"{p} ms: a + b B | streams a core | tokens/s" for p in periods)
        + " |",
        "|---" * (1 + 3 * len(periods)) + "|",
    ]
    for key, name in ENGINES.items():
        cells = []
        for period in periods:
            row = compared["periods"][period]["engines"].get(key)
            cells += (
                [
                    f"{row['a_ms']:.1f} + {row['b_ms']:.2f} B",
                    f"{row['capacity']:.0f}",
                    f"{row['tokens_per_s']:.0f}",
                ]
                if row
                else ["-"] * 3
            )
        if set(cells) != {"-"}:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _tools(result: dict[str, Any]) -> list[str]:
    fusion, boost = result["fusion"], result["boosting"]
    sure, times, quiet = result["confidence"], result["times"], result["nothing"]
    return [
        f"**What the tools are worth** with the embedded model (`python -m tests.bench.tools`; "
        f"{result['machine']}):",
        "",
        "| | |",
        "|---|---|",
        "| WER on LibriSpeech clean: greedy, language model, beam, both (shipped) | "
        + ", ".join(f"{100 * fusion[k]:.1f} %" for k in ("greedy", "lm", "beam", "beam_lm"))
        + " |",
        f"| {boost['phrases']} rare words boosted at once: missed before, after "
        f"| {100 * boost['plain_rare_missed']:.0f} %, {100 * boost['boosted_rare_missed']:.0f} % |",
        f"| other words missed before, after | {100 * boost['plain_others_missed']:.1f} %, "
        f"{100 * boost['boosted_others_missed']:.1f} % |",
        "| word confidence with the model's curve, fitted on these words: expected calibration "
        "error; that of a curve of one half of them on the other half; AUC "
        f"| {sure['expected_calibration_error']:.3f}; "
        f"{sure['refitted_on_half']:.3f}; {sure['auc']:.2f} |",
        "| word start, end against the synthesiser's, with the model's delay, measured on them, "
        "taken off (median of the error) | "
        f"{times['start_median_error_ms']} ms, {times['end_median_error_ms']} ms |",
        f"| words in {quiet['minutes']:.0f} minutes of silence, of a fan, of music | "
        f"{quiet['words_in_silence']}, {quiet['words_in_fan']}, {quiet['words_in_music']} |",
        "",
    ]


def _accuracy(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    looks = sorted({row["look_ahead"] for row in rows})
    wer = {(row["set"], row["precision"], row["look_ahead"]): row["wer"] for row in rows}
    lines = [
        f"**Word error rate, %** of the embedded model through the streaming engine, "
        f"{' / '.join(precisions)} (`make accuracy`; {result['machine']}; evaluation sets that "
        "are not part of this repository):",
        "",
        "| set | " + " | ".join(f"look-ahead {look}" for look in looks) + " |",
        "|---" * (len(looks) + 1) + "|",
    ]
    for name in sorted({row["set"] for row in rows}):
        cells = [
            " / ".join(f"{100 * wer[name, p, look]:.1f}" for p in precisions) for look in looks
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _faults(result: dict[str, Any]) -> list[str]:
    lines = [
        f"**What a fault costs** (`make faults ARGS=--thorough`; {result['machine']}): live streams"
        " of the embedded model (fp32) or of scripted words, struck in mid-sentence; their final"
        " transcripts are compared with those of runs that nothing disturbed.",
        "",
        "| blow | streams | runs | identical | longest wait for words beyond the blow, p95 |",
        "|---|---|---|---|---|",
    ]
    rows = {row["case"]: row for row in result["cases"]}
    lines += [
        f"| {name} | {row['streams']} | {row['runs']} | {row['identical']} "
        f"| {row['gap_p95_s']:.1f} s |"
        for name, row in rows.items()
        if "identical" in row
    ]
    opened, parked, offered = (
        rows[name] for name in ("open and close", "10 x N* connected", "2 x N* offered")
    )
    return [
        *lines,
        "",
        f"{opened['cycles']:,} sessions opened and closed left {opened['leaked_slots']} slots"
        f" taken. Of a 115M model, of which {parked['n_star']} streams hold their delay here,"
        f" {parked['connected_at_end']} were connected at once, {parked['resting']} of them resting"
        f" in {parked['parked_bytes'] / 1e6:.1f} MB each. With twice as many offered,"
        f" {offered['admitted_goodput']:.2f} times as many kept their delay as when no more come"
        f" than it carries; others were refused within {offered['refusal_p99_ms']:.0f} ms (p99)."
        " Snapshots every"
        f" {rows['checkpoints']['every_s']} s cost {100 * result['checkpoint_overhead']:.1f} %;"
        f" two pinned workers carry {result['two_workers_ratio']:.2f} times what one carries.",
        "",
    ]


def _edge(result: dict[str, Any]) -> list[str]:
    at, longest = result["summary"], result["cuts"][-1]
    cuts = ", ".join(f"{seconds:.0f}" for seconds in at["cuts_s"])
    return [
        f"**At the edge** (`make edge`; {result['machine']}; {at['legs']} legs,"
        f" {result['delay_ms']:.0f} ms round trip, {100 * result['loss']:g} % loss):",
        "",
        "| | |",
        "|---|---|",
        f"| a relay adds | {at['added_latency_ms']:.1f} ms |",
        f"| links cut for {cuts} s: words lost; new audio at the core again, p95 "
        f"| {at['partition_words_lost']} of {at['words']:,}; {at['new_audio_acked_s']:.1f} s |",
        f"| words caught up after {longest['cut_s']:.0f} s "
        f"| {longest['words_caught_up_s']:.1f} s ({longest['backlog_s']:,.0f} s of audio) |",
        f"| {at['handovers']} handovers, gap p99: relayed; with state "
        f"| {at['handover_gap_p99_ms']:.0f} ms; {at['handover_state_gap_p99_ms']:.0f} ms |",
        "| on the link, of 16 kHz PCM: G.711; Opus "
        f"| {100 * at['backhaul_share_of_pcm']:.0f} %; "
        f"{100 * at['backhaul_opus_share_of_pcm']:.0f} % |",
        "| policy `edge`: audio to the core; all else "
        f"| {at['edge_policy_audio_bytes']} bytes; {at['edge_policy_kbps']:.1f} kbit/s |",
        "| a node of one core: legs relayed; streams recognised "
        f"| {at['legs_one_core_relayed']}; {at['streams_one_core_local']} |",
        "",
    ]


def _clients(result: dict[str, Any]) -> list[str]:
    return [
        f"**Clients of others** (`make clients`): {result['passed']} of {result['cases']} cases of"
        f" {result['clients']} packages heard the words of our own wire (`--precision auto`);"
        f" end of speech to final {result['eos_to_final_p50_ms']:.0f} ms p50,"
        f" {result['eos_to_final_p99_ms']:.0f} ms p99"
        f" (20 streams, look-ahead 1, 200 ms of which are the client's own wait);"
        f" {100 * result['false_share']:.1f} % of the ends of turns were false;"
        f" {result['viewers']} read a meeting along.",
        "",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
