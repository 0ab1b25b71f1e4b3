"""``python -m tests.bench.gate``: what an edge node's voice gate saves and what it costs in words.

Does: recordings as G.711, each with a quiet line before and behind it, to the embedded model with
and without the gate; WER, share of the time that is sent; results/gate.json.
Does not know: nodes, links. Silence the gate tells is fed as the core feeds a gap.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr.audio import decode
from asr.checkpoint import DEFAULT_MODEL
from asr.engine import EngineConfig, load_engine
from asr.interface import Samples
from asr.offline import Recording, read_audio, read_manifest, transcribe
from asr.scoring import Score, score
from clients.console import table
from clients.load.host import machine
from edge.g711 import encode
from edge.gate import Gate
from tests.bench.tools import SPEECH

RESULTS = Path(__file__).parent / "results" / "gate.json"
SETS = {
    "dev": SPEECH / "dev" / "manifest.jsonl",
    "other": SPEECH / "eval" / "eval_librispeech_other" / "manifest.jsonl",
    "other, noisy": SPEECH / "eval" / "eval_librispeech_other_noisy" / "manifest.jsonl",
}
RATE, PACKET, LOOK_AHEAD = 16_000, 160, 6
LINE_S, LINE_DBFS = 2.0, -65.0
"""Of a quiet line on each side of a recording."""
GAP_S = 2
"""A gap is fed as so much silence at most; the rest moves the clock."""


def gated(data: bytes) -> tuple[Samples, float]:
    """Return what a core decodes of mu-law audio behind a gate, and the share that was sent."""
    gate, parts, sent = Gate("mulaw", RATE), list[Samples](), 0
    pieces = [
        piece
        for at in range(0, len(data), PACKET)
        for piece in gate.receive(len(data[at : at + PACKET]), data[at : at + PACKET])
    ]
    for piece in pieces + gate.flush():
        if piece.data is None:
            parts.append(np.zeros(min(piece.samples, GAP_S * RATE), np.float32))
        else:
            sent += piece.samples
            parts.append(decode(piece.data, "mulaw")[0])
    return np.concatenate(parts), sent / len(data)


def calls(manifest: Path, every: int) -> Iterator[tuple[str, bytes]]:
    """Yield text and mu-law audio of each recording on its line."""
    rng = np.random.default_rng(1)
    for utterance in read_manifest(manifest)[::every]:
        samples = read_audio(utterance.audio)
        lines = rng.normal(0, 10 ** (LINE_DBFS / 20), (2, int(LINE_S * RATE)))
        call = np.concatenate([lines[0], samples, lines[1]])
        yield (
            utterance.text,
            encode((call * 32_767).clip(-32_768, 32_767).astype(np.int16), "mulaw"),
        )


def measure(manifest: Path, every: int) -> dict[str, float]:
    """Error rates with and without the gate, on the same audio."""
    engine = load_engine(DEFAULT_MODEL, EngineConfig(slots=16))
    texts, recordings, shares = list[str](), list[Recording](), list[float]()
    for number, (text, data) in enumerate(calls(manifest, every)):
        samples, share = gated(data)
        texts.append(text)
        shares.append(share)
        recordings.append(Recording(f"whole {number}", decode(data, "mulaw")[0]))
        recordings.append(Recording(f"gated {number}", samples))
    scores = {"whole": Score(), "gated": Score()}
    for heard in transcribe(engine, recordings, LOOK_AHEAD):
        kind, _, place = heard.name.partition(" ")
        scores[kind] += score(texts[int(place)], heard.text)
    return {
        "recordings": len(texts),
        "sent": round(float(np.mean(shares)), 3),
        "wer": round(scores["whole"].wer, 4),
        "wer_gated": round(scores["gated"].wer, 4),
    }


def main() -> int:
    """Measure, tell, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="each n-th recording")
    every = parser.parse_args().every
    found = {name: measure(manifest, every) for name, manifest in SETS.items()}
    header = ("set", "recordings", "sent", "WER", "gated")
    rows = [[name, *(f"{value:g}" for value in row.values())] for name, row in found.items()]
    sys.stdout.write(table(header, rows, width=100, flexible=0) + "\n")
    RESULTS.write_text(json.dumps({"machine": machine(), "sets": found}, indent=1) + "\n")
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
