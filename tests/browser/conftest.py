"""One headless Chromium for the folder; its microphone plays beeps, then silence."""

import math
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.cdp import browser, find_chromium

RATE = 16_000
BEEPS_MS = 4_000


def beep(path: Path, *, rate: int, milliseconds: int, rest_ms: int = 0) -> Path:
    """A WAV of a wavering tone, then pure zeros."""
    count = rate * milliseconds // 1000
    values = [round(9000 * math.sin(i * 0.17) * math.sin(i * 0.0011)) for i in range(count)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{count}h", *values) + bytes(2 * rate * rest_ms // 1000))
    return path


@pytest.fixture(scope="session")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DevTools address of a running browser."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("no browser: install Debian's package chromium")
    microphone = tmp_path_factory.mktemp("microphone") / "beeps.wav"
    beep(microphone, rate=RATE, milliseconds=BEEPS_MS, rest_ms=60_000)
    with browser(executable, microphone=microphone) as address:
        yield address
