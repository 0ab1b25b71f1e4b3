"""Real clients against a real server: environments, audio, the words of the native wire.

Does: make one environment of pinned packages (under build/, once), run a driver in it, compare.
Does not know: pytest. A driver prints one line of JSON: text, messages, client.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from server.app import Running, running
from server.config import ServerConfig
from tests.io.serving import talk, transcript

ROOT = Path(__file__).parents[2]
DRIVERS = Path(__file__).parent / "drivers"
LIMIT_S = 240.0
CLIP = ROOT / "samples" / "01-kitchen.ogg"


class NoEnvironment(Exception):
    """The environment cannot be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way of using one client."""

    driver: str
    mode: str
    port: str = ""
    """The wire's own port; empty: the main one."""
    rate: int = 16_000
    is_wav: bool = False

    @property
    def name(self) -> str:
        """Driver and mode in one word."""
        return f"{self.driver}-{self.mode}"


OWN_ENVIRONMENT = ("livekit", "pipecat", "homeassistant")
"""Drivers whose packages do not go together with those of the others."""
JAVASCRIPT = "@deepgram/sdk@5.13.0"

CASES = (
    Case("deepgram", "live"),
    Case("deepgram", "finalize"),
    Case("deepgram", "v2"),
    Case("deepgram", "file", is_wav=True),
    *(
        Case("openai", form, is_wav=True)
        for form in ("json", "verbose_json", "text", "srt", "vtt", "stream")
    ),
    Case("openai", "ga", rate=24_000),
    Case("openai", "manual", rate=24_000),
    Case("openai", "beta", rate=24_000),
    Case("others", "wyoming", port="wyoming"),
    Case("homeassistant", "stt", port="wyoming"),
    Case("others", "vosk", port="vosk", is_wav=True),
    Case("others", "sherpa", port="sherpa", is_wav=True),
    Case("others", "riva", port="grpc"),
    Case("others", "riva-file", port="grpc", is_wav=True),
    Case("others", "assemblyai"),
    Case("others", "speechmatics"),
    Case("others", "nvidia"),
    Case("others", "nvidia-file", is_wav=True),
    Case("others", "kyutai", rate=24_000),
    Case("javascript", "deepgram"),
    Case("livekit", "deepgram"),
    Case("livekit", "flux"),
    Case("livekit", "openai", rate=24_000),
    Case("livekit", "rivulet"),
    Case("pipecat", "rivulet"),
    Case("pipecat", "finalize"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client made of a clip."""

    case: str
    client: str
    messages: int
    text: str
    expected: str

    @property
    def is_same(self) -> bool:
        """Whether it heard the words of the native wire; capitals and marks are its own choice."""
        return plain(self.text) == plain(self.expected)


def plain(text: str) -> list[str]:
    """Return the words of a text without capitals and marks: some clients ask for them."""
    return [word.strip(".,?!").lower() for word in text.split()]


def program(case: Case) -> list[str | Path]:
    """Return what runs a case, up to its mode; raises NoEnvironment."""
    if case.driver == "javascript":
        modules = node_modules()
        driver = DRIVERS / "drive_javascript.cjs"
        return ["env", f"NODE_PATH={modules}", "node", driver]
    name = case.driver if case.driver in OWN_ENVIRONMENT else "sdk"
    return [environment(name), DRIVERS / f"drive_{case.driver}.py"]


def node_modules() -> Path:
    """Return the folder of the JavaScript clients; raises NoEnvironment."""
    folder = ROOT / "build" / "clients-js"
    if not (folder / "node_modules" / "@deepgram").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--prefix", str(folder), JAVASCRIPT]
        try:
            subprocess.run(install, check=True, timeout=600, capture_output=True)
        except (OSError, subprocess.SubprocessError) as error:
            why = f"the JavaScript client cannot be installed ({type(error).__name__})"
            raise NoEnvironment(why) from error
    return folder / "node_modules"


def environment(name: str) -> Path:
    """Return the interpreter of an environment of clients; raises NoEnvironment.

    ``RIVULET_CLIENTS_SDK``, ``.._LIVEKIT``, ``.._PIPECAT`` and ``.._HOMEASSISTANT`` may name
    interpreters that have them.
    """
    own = os.environ.get(f"RIVULET_CLIENTS_{name.upper()}")
    if own:
        return Path(own)
    packages = (Path(__file__).parent / f"packages-{name}.txt").read_text().split()
    folder = ROOT / "build" / f"clients-{name}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists() and ready.read_text().split() == packages:
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=600)
        install = [str(python), "-m", "pip", "install", "-q", *packages]
        subprocess.run(install, check=True, timeout=900, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoEnvironment(f"the clients cannot be installed ({type(error).__name__})") from error
    ready.write_text("\n".join(packages))
    return python


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Running]:
    """A server of every wire with the embedded model."""
    ports = dict.fromkeys(("wyoming_port", "vosk_port", "sherpa_port", "grpc_port"), 0)
    options: dict[str, Any] = {"port": 0, "workers": 1, "slots": 16, "drain_s": 0.2}
    async with running(ServerConfig(**(options | ports | settings))) as server:
        await server.manager.ready()
        yield server


def recording(case: Case, folder: Path) -> tuple[Path, bytes]:
    """Write the clip as the client sends it; return its path and its samples."""
    samples, own = soundfile.read(CLIP, dtype="float32")
    if case.rate != own:
        at = np.arange(len(samples) * case.rate // own) * own / case.rate
        samples = np.interp(at, np.arange(len(samples)), samples)
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    path = folder / f"{case.rate}.{'wav' if case.is_wav else 'pcm'}"
    if not case.is_wav:
        path.write_bytes(pcm)
        return path, pcm
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, case.rate, 0, "NONE", ""))
        file.writeframes(pcm)
    return path, pcm


async def expected_words(server: Running, pcm: bytes, rate: int) -> str:
    """Return what the native wire says of the same bytes."""
    audio = {"encoding": "pcm_s16le", "rate": rate}
    return transcript(await talk(server, pcm, audio=audio, latency="balanced"))


async def play(case: Case, server: Running, folder: Path) -> Outcome:
    """Run one client to its end; raises NoEnvironment, RuntimeError with what it wrote."""
    run = await asyncio.to_thread(program, case)
    path, pcm = recording(case, folder)
    ports = server.gateway.ports
    port = ports.port_of(case.port) if case.port else server.addresses.port
    host = f"127.0.0.1:{port}"
    process = await asyncio.create_subprocess_exec(
        *run, case.mode, host, path, str(case.rate),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise RuntimeError(f"{case.name} did not end") from None
    if process.returncode:
        raise RuntimeError(f"{case.name} failed:\n{err.decode()[-2_000:]}")
    said = json.loads(out.decode().splitlines()[-1])
    expected = await expected_words(server, pcm, case.rate)
    return Outcome(case.name, said["client"], said["messages"], said["text"], expected)
