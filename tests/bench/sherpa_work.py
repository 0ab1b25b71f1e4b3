"""One sherpa-onnx recogniser whose steps are timed; runs in an environment of its own.

Does: answer (rows, ...) with (wall ms, cpu ms, tokens) of one chunk for that many live streams:
exactly what sherpa's server does a tick. Only the standard library, numpy and sherpa_onnx.
Does not know: how it was installed or exported, what is done with the times.
"""

import sys
import time
from multiprocessing.connection import Client
from pathlib import Path

import numpy as np
import sherpa_onnx  # type: ignore[import-not-found, unused-ignore]

RATE, FRAME_SAMPLES, CONTEXT_S, MATERIAL_S, VOICES = 16_000, 1_280, 5.6, 20.0, 16


def audio(seed: int) -> np.ndarray:
    """Noise bursts and gliding tones, made as tests/equivalence/models.py makes them."""
    random, count = np.random.default_rng(seed), int(MATERIAL_S * RATE)
    at = np.arange(count) / RATE
    loud_at, pitch_at = np.arange(0, MATERIAL_S + 0.2, 0.12), np.arange(0, MATERIAL_S + 0.3, 0.2)
    loud = np.interp(at, loud_at, random.random(len(loud_at)) ** 3)
    pitch = np.interp(at, pitch_at, 90 + 2500 * random.random(len(pitch_at)))
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    return (loud * (tone + 0.1 * random.standard_normal(count))).astype(np.float32)


class Streams:
    """Groups of live streams, one for each batch size."""

    def __init__(self, folder: Path, precision: str, look_ahead: int, batches: list[int]) -> None:
        end = ".int8.onnx" if precision == "int8" else ".onnx"
        encoder, decoder, joiner = (
            str(folder / f"{name}{end}") for name in ("encoder", "decoder", "joiner")
        )
        self._recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
            tokens=str(folder / "tokens.txt"), encoder=encoder, decoder=decoder, joiner=joiner,
            num_threads=1, feature_dim=80, decoding_method="greedy_search", provider="cpu",
        )  # fmt: skip
        self._chunk = FRAME_SAMPLES * (look_ahead + 1)
        self._voices = [audio(seed) for seed in range(VOICES)]
        self._groups = {
            rows: [self._recognizer.create_stream() for _ in range(rows)] for rows in batches
        }
        self._at = dict.fromkeys(batches, 0)
        self._said = dict.fromkeys(batches, 0)
        for rows in batches:
            for _ in range(-(-int(CONTEXT_S * RATE) // self._chunk)):
                self.step(rows)

    def step(self, rows: int) -> int:
        """Feed a chunk to every stream of the group and decode; return the tokens said."""
        begin = self._at[rows]
        group = self._groups[rows]
        for number, stream in enumerate(group):
            voice = self._voices[number % VOICES]
            where = (begin + number * 997 + np.arange(self._chunk)) % len(voice)
            stream.accept_waveform(RATE, voice[where])
        self._at[rows] = begin + self._chunk
        while ready := [stream for stream in group if self._recognizer.is_ready(stream)]:
            self._recognizer.decode_streams(ready)
        said = sum(len(self._recognizer.get_result_all(stream).tokens) for stream in group)
        new, self._said[rows] = said - self._said[rows], said
        return new


def main() -> None:
    """Serve steps until told to end."""
    port, folder, precision, look_ahead, batches = sys.argv[1:]
    address = ("localhost", int(port)) if port.isdigit() else port
    with Client(address, authkey=b"bench") as link:
        sizes = [int(size) for size in batches.split(",")]
        streams = Streams(Path(folder), precision, int(look_ahead), sizes)
        link.send("ready")
        while (asked := link.recv()) is not None:
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = streams.step(asked[0])
            times = (1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu))
            link.send((*times, tokens))


if __name__ == "__main__":
    main()
