"""Make the clips of this folder: texts written for rivulet, spoken by synthetic voices, treated.

Does: samples/*.ogg, *.wav and manifest.jsonl from the tables below; the same clips each time, but
for piper's own noise.
Does not know: rivulet. Engines and their installs: the head of synthesize.py (shared/speech beside
the repository).

  python samples/make_samples.py --kokoro-voices kokoro-js-1.2.1.tgz [--synthesizer synthesize.py]
"""

import argparse
import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import soundfile

RATE = 16_000
HERE = Path(__file__).parent


class Clip(NamedTuple):
    name: str
    condition: str
    engine: str
    voice: str
    lines: list[str]


CLIPS = [
    Clip(
        "01-kitchen",
        "clean",
        "kokoro",
        "af_kore",
        ["Turn on the lights in the kitchen, and play some quiet music while I cook dinner."],
    ),
    Clip("02-timer", "short", "hibari", "heart", ["Stop the timer."]),
    Clip(
        "03-village",
        "clean",
        "kokoro",
        "bm_lewis",
        [
            "The old boat came back to the village before the storm, and nobody on the "
            "shore had waited for it."
        ],
    ),
    Clip(
        "04-train",
        "clean",
        "kokoro",
        "am_onyx",
        ["The next train to the city leaves at half past seven from platform three."],
    ),
    Clip(
        "05-river",
        "clean",
        "kokoro",
        "bf_lily",
        [
            "A river does not stop when it meets a stone. It finds a way around, and the "
            "stone becomes smooth."
        ],
    ),
    Clip(
        "06-doctor",
        "clean",
        "hibari",
        "man",
        [
            "Could you tell the doctor that I have to move my appointment to the first "
            "week of March?"
        ],
    ),
    Clip(
        "07-garden",
        "clean",
        "piper",
        "joe",
        ["My brother grows tomatoes and beans in a very small garden behind the house."],
    ),
    Clip(
        "08-numbers",
        "clean",
        "hibari",
        "heart",
        ["The code is four, nine, zero, two, seven, and the room is number sixteen."],
    ),
    Clip(
        "09-library",
        "clean",
        "flite",
        "slt",
        [
            "The library is open every day except Sunday, and the books can stay at home "
            "for three weeks."
        ],
    ),
    Clip(
        "10-telephone",
        "telephone",
        "kokoro",
        "af_kore",
        [
            "Hello, I am calling about the bicycle. Is it still for sale, and may I come "
            "and see it tonight?"
        ],
    ),
    Clip(
        "11-cafe",
        "noise",
        "kokoro",
        "am_onyx",
        [
            "I would like two cups of coffee and a piece of apple cake, please, and the "
            "bill at the same time."
        ],
    ),
]

MEETING = [  # speaker of channel 0 or 1, what is said
    (0, "Good morning. Did you have time to read the plan for the new bridge?"),
    (1, "Yes, I read it last night. I like the idea, but I am worried about the cost."),
    (0, "So am I. What would happen if we started with the smaller one in the north?"),
    (1, "Then we could finish before the winter, and the people there would be happy."),
    (0, "Good. Let us ask for the numbers, and we will talk again on Friday."),
    (1, "Friday is fine. I will bring the maps."),
]
MEETING_VOICES = ("bf_lily", "am_onyx")

LONG = [  # seconds of silence before, what is said; the clip is exactly two minutes
    (1.5, "I am writing down what happened on the island, as well as I can remember it."),
    (9.0, "On the first day it rained, and we stayed in the small house near the water."),
    (6.0, "In the evening the wind went away, and we heard the birds for the first time."),
    (14.0, "The second day was different. We walked up the hill and found an empty road."),
    (8.0, "Nobody had used it for years. There was grass between the stones."),
    (17.0, "Later my sister said that she had seen a light on the other side."),
    (7.0, "I did not believe her then."),
    (12.0, "Now I think that she was right, and that somebody was waiting for us."),
]


def plain(text: str) -> str:
    """Lower case, letters and apostrophes: the transcript form of the speech sets."""
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


class Voices:
    """The engines of synthesize.py behind one call that gives 16 kHz samples."""

    def __init__(self, synthesizer: Path, kokoro_voices: str, cache: str) -> None:
        spec = importlib.util.spec_from_file_location("synthesize", synthesizer)
        assert spec is not None and spec.loader is not None
        self.tool: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.tool)
        self.args = SimpleNamespace(kokoro_voices=kokoro_voices, cache=cache, threads=1)
        self.engines: dict[str, Any] = {}

    def say(self, engine: str, voice: str, text: str, *, seed: int) -> np.ndarray:
        if engine not in self.engines:
            self.engines[engine] = self.tool.engine(engine, self.args)
        chosen: Any = voice
        if engine == "kokoro":
            chosen = {
                "accent": "b" if voice[0] == "b" else "a",
                "timbre": {voice: 1.0},
                "prosody": {voice: 1.0},
            }
        elif engine == "hibari":
            man = {
                "pitch": 0.62,
                "range": 0.9,
                "formant": 0.86,
                "breath": 0.0,
                "tilt": -0.5,
                "creak": 0.01,
            }
            chosen = man if voice == "man" else None
        sound, rate, _ = self.engines[engine].say(text, chosen, 1.0, np.random.default_rng(seed))
        sound = self.tool.resample(np.asarray(sound, np.float32), RATE / rate)
        sound, _ = self.tool.trim(sound, RATE)
        return 0.5 * sound / max(1e-6, float(np.abs(sound).max()))


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def framed(sound: np.ndarray) -> np.ndarray:
    return np.concatenate([silence(0.3), sound, silence(0.6)])


def floor(sound: np.ndarray, seed: int) -> np.ndarray:
    """A microphone's own hiss, 80 dB down: no clip holds digital silence."""
    return sound + np.random.default_rng(seed).normal(0, 1e-4, sound.shape).astype(np.float32)


def pink(count: int, seed: int) -> np.ndarray:
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    shape = 1 / np.sqrt(np.maximum(np.arange(len(spectrum)), 20.0))
    noise = np.fft.irfft(spectrum * shape, count)
    return (noise / noise.std()).astype(np.float32)


def cafe(sound: np.ndarray, others: list[np.ndarray], seed: int) -> np.ndarray:
    """Pink noise and three voices at the other tables, 10 dB under the speaker."""
    babble = np.zeros_like(sound)
    for shift, other in enumerate(others):
        babble += np.resize(np.roll(other, shift * 7919), sound.shape)
    noise = babble / max(1e-6, float(babble.std())) + 0.7 * pink(len(sound), seed)
    loud = float(sound[np.abs(sound) > 0.01].std())
    return sound + noise / noise.std() * loud * 10 ** (-10 / 20)


def telephone(sound: np.ndarray, voices: Voices) -> np.ndarray:
    """300-3400 Hz at 8 kHz; written as mu-law."""
    spectrum = np.fft.rfft(sound)
    hertz = np.fft.rfftfreq(len(sound), 1 / RATE)
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    return voices.tool.resample(np.fft.irfft(spectrum, len(sound)).astype(np.float32), 0.5)


def write(name: str, sound: np.ndarray) -> str:
    """Opus at 24 kbit/s a channel (libsndfile: bits = 6000 + 250000 * (1 - level))."""
    soundfile.write(
        HERE / name,
        sound,
        RATE,
        format="OGG",
        subtype="OPUS",
        compression_level=1 - 18_000 / 250_000,
    )
    return name


def entry(name: str, text: str, speaker: str, engine: str, condition: str) -> dict[str, Any]:
    info = soundfile.info(HERE / name)
    return {
        "audio_filepath": name,
        "duration": round(info.frames / info.samplerate, 3),
        "text": text,
        "speaker": speaker,
        "source": f"synthetic/{engine}",
        "condition": condition,
    }


def make_short(voices: Voices) -> list[dict[str, Any]]:
    entries = []
    spoken = {
        c.name: framed(voices.say(c.engine, c.voice, " ".join(c.lines), seed=i))
        for i, c in enumerate(CLIPS)
    }
    for seed, clip in enumerate(CLIPS):
        sound = spoken[clip.name]
        if clip.condition == "telephone":
            name = f"{clip.name}.wav"
            soundfile.write(
                HERE / name, floor(telephone(sound, voices), seed), 8000, subtype="ULAW"
            )
        else:
            if clip.condition == "noise":
                sound = cafe(
                    sound, [spoken[n] for n in ("03-village", "07-garden", "09-library")], seed
                )
            name = write(f"{clip.name}.ogg", floor(sound, seed))
        entries.append(
            entry(
                name,
                plain(" ".join(clip.lines)),
                f"{clip.engine}-{clip.voice}",
                clip.engine,
                clip.condition,
            )
        )
    return entries


def make_meeting(voices: Voices) -> dict[str, Any]:
    tracks: list[list[np.ndarray]] = [[silence(0.4)], [silence(0.4)]]
    for seed, (who, line) in enumerate(MEETING):
        sound = np.concatenate(
            [voices.say("kokoro", MEETING_VOICES[who], line, seed=seed), silence(0.45)]
        )
        tracks[who].append(sound)
        tracks[1 - who].append(np.zeros_like(sound))
    stereo = np.stack([np.concatenate(t) for t in tracks], axis=1)
    name = write("12-meeting.ogg", floor(stereo, 12))
    texts = [plain(" ".join(line for who, line in MEETING if who == c)) for c in (0, 1)]
    row = entry(
        name,
        plain(" ".join(line for _, line in MEETING)),
        " ".join(f"kokoro-{v}" for v in MEETING_VOICES),
        "kokoro",
        "meeting",
    )
    return row | {
        "channels": [
            {"speaker": f"kokoro-{v}", "text": t}
            for v, t in zip(MEETING_VOICES, texts, strict=True)
        ]
    }


def make_long(voices: Voices) -> dict[str, Any]:
    pieces = []
    total = sum(pause for pause, _ in LONG)
    spoken = [voices.say("kokoro", "bm_lewis", line, seed=i) for i, (_, line) in enumerate(LONG)]
    stretch = (120.0 - 2.0 - sum(len(s) for s in spoken) / RATE) / total
    for (pause, _), sound in zip(LONG, spoken, strict=True):
        pieces += [silence(pause * stretch), sound]
    sound = np.concatenate(pieces)
    sound = np.concatenate([sound, np.zeros(120 * RATE - len(sound), np.float32)])
    name = write("13-island.ogg", floor(sound, 13))
    return entry(
        name, plain(" ".join(line for _, line in LONG)), "kokoro-bm_lewis", "kokoro", "long pauses"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--synthesizer",
        type=Path,
        default=HERE.parent.parent / "shared" / "speech" / "synthesize.py",
    )
    parser.add_argument(
        "--kokoro-voices", required=True, help="tarball of npm pack kokoro-js@1.2.1"
    )
    parser.add_argument(
        "--cache", default="build/kokoro", help="where the float32 model of kokoro goes"
    )
    args = parser.parse_args()
    voices = Voices(args.synthesizer, args.kokoro_voices, args.cache)
    entries = [*make_short(voices), make_meeting(voices), make_long(voices)]
    lines = "".join(json.dumps(e) + "\n" for e in entries)
    (HERE / "manifest.jsonl").write_text(lines)
    print(f"{len(entries)} clips, {sum(e['duration'] for e in entries):.0f} s")


if __name__ == "__main__":
    main()
