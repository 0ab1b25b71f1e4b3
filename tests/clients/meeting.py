"""A meeting of four people through the pages in a headless browser, read along by many.

Does: four tabs speak (a recording each, at the pace of speech), one tab and many sockets read; the
files that the page saves; pictures; what the engine did, with readers and without.
Does not know: the other clients, what is asserted of the figures.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from clients.connection import Connection
from clients.connection import connect as dial
from server.app import Running
from server.wire.messages import AudioFormat, Final, LatencyClass
from tests.browser.cdp import Page, browser, find_chromium, open_page
from tests.clients.rig import NoEnvironment, serving
from tests.clients.tracks import RATE_HZ, Track, tracks
from tests.io.serving import figure

FORMATS = ("txt", "md", "srt", "vtt", "json")
STATE = "document.documentElement.dataset.state"
FINALS = "[...document.querySelectorAll('.final span')].map((e) => e.innerText)"
ROWS = "[...document.querySelectorAll('#log .said')]"
LATENCY: LatencyClass = "balanced"


@dataclass(slots=True)
class Reader:
    """A socket that reads along, as the page does."""

    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    came_s: dict[int, float] = field(default_factory=dict)
    """Line -> arrival, of those that came live."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the engine did."""

    steps: float
    frames: float
    """Of all streams together: how many steps share them depends on the machine's other work."""
    seconds: float

    @staticmethod
    async def so_far(server: Running) -> "Work":
        """Read the server's own figures."""
        return Work(
            await figure(server, "rivulet_step_seconds_count"),
            await figure(server, "rivulet_frames_total"),
            await figure(server, "rivulet_step_seconds_sum"),
        )

    def __sub__(self, before: "Work") -> "Work":
        return Work(
            self.steps - before.steps, self.frames - before.frames, self.seconds - before.seconds
        )


@dataclass(slots=True)
class Held:
    """One meeting, held."""

    said: dict[str, list[str]]
    """Name -> finals as that person's own page has them."""
    lags_ms: list[float]
    readers: list[Reader] = field(default_factory=list)
    page: list[tuple[str, str]] = field(default_factory=list)
    """Name and text of each row of the page that reads along."""
    late: Reader = field(default_factory=Reader)
    """One who came when all was said."""
    files: dict[str, str] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


async def meet(
    scratch: Path, *, viewers: int, seconds: float, pictures: Path | None = None
) -> dict[str, Any]:
    """Hold the meeting twice, without readers and with them; raises NoEnvironment."""
    executable = find_chromium()
    if executable is None:
        raise NoEnvironment("there is no browser: install Debian's package chromium")
    people = tracks(scratch, seconds)
    with browser(executable, microphone=people[0].path) as address:
        # words are compared: no rounding by the batch, nobody is turned away on a busy machine
        async with serving(precision="fp32", admission="slots", rest_after_s=0.0) as server:
            rig = _Rig(server, address, scratch, people, pictures)
            works = [await Work.so_far(server)]
            await rig.hold("alone", viewers=0)
            works.append(await Work.so_far(server))
            held = await rig.hold("monday", viewers=viewers)
            works.append(await Work.so_far(server))
            alone, read = works[1] - works[0], works[2] - works[1]
            native = {track.name: await _native(server, _pcm(track.path)) for track in people}
    return _figures(people, held, native) | {
        "seconds": seconds,
        "viewers": viewers,
        "engine": {
            "frames": [alone.frames, read.frames],
            "steps": [alone.steps, read.steps],
            "step_s": [round(alone.seconds, 2), round(read.seconds, 2)],
        },
    }


@dataclass(frozen=True, slots=True)
class _Rig:
    server: Running
    browser: str
    scratch: Path
    people: Sequence[Track]
    pictures: Path | None

    async def hold(self, room: str, *, viewers: int) -> Held:
        """Hold one meeting to its end."""
        async with contextlib.AsyncExitStack() as stack:
            pages = [await stack.enter_async_context(self._tab()) for _ in self.people]
            readers = [Reader() for _ in range(max(0, viewers - 1))]
            for reader in readers:
                await stack.enter_async_context(self._reading(room, reader))
            window = await stack.enter_async_context(self._tab()) if viewers else None
            if window is not None:
                await window.goto(f"{self.server.addresses.page}meeting/{room}")
            for page, track in zip(pages, self.people, strict=True):
                await self._prepare(page, track, room)
            for page in pages:
                await page.click("#toggle")
            for page in pages:
                await page.wait(f"{STATE} === 'live'", seconds=60)
            if window is not None:
                await self._look(window, live=True)
            limit_s = 120.0 + self._length_s()
            for page in pages:
                await page.wait(f"{STATE} === 'finished'", seconds=limit_s)
            held = Held(
                {t.name: await p.js(FINALS) for t, p in zip(self.people, pages, strict=True)},
                [float(await page.text("#lag")) for page in pages],
                readers,
            )
            if window is not None:
                await self._read_up(room, window, held)
            held.complaints = [text for page in pages for text in page.complaints]
            held.complaints += window.complaints if window is not None else []
            return held

    def _tab(self) -> contextlib.AbstractAsyncContextManager[Page]:
        return open_page(self.browser, self.scratch)

    def _length_s(self) -> float:
        return max(len(_pcm(track.path)) / 2 / RATE_HZ for track in self.people)

    async def _prepare(self, page: Page, track: Track, room: str) -> None:
        await page.goto(f"{self.server.addresses.page}?meeting={room}&name={track.name}")
        await page.click(f"[name=latency][value={LATENCY}]")
        await page.click("[name=source][value=file]")
        await page.js("document.querySelector('#pace').value = 'paced'")
        await page.choose_file("#file", track.path)

    async def _read_up(self, room: str, window: Page, held: Held) -> None:
        """Wait until everything was read, take the files, come late once."""
        count = sum(1 for finals in held.said.values() for text in finals if text)
        await window.wait(f"{ROWS}.length === {count}")
        held.page = [
            (name, text)
            for name, text in await window.js(
                f"{ROWS}.map((row) => [row.dataset.name, row.children[2].textContent])"
            )
        ]
        for form in FORMATS:
            await window.click(f"[data-format={form}]")
            held.files[form] = await window.downloaded()
        await self._look(window, live=False)
        async with asyncio.timeout(30), self._reading(room, held.late):
            while any(len(r.lines) < count for r in (*held.readers, held.late)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _look(self, window: Page, *, live: bool) -> None:
        """Take pictures: words being said, light; all of it, dark, narrow and as an overlay."""
        if live:
            await window.wait("document.querySelector('#open .said')", seconds=60)
            await window.wait(f"{ROWS}.length >= 4", seconds=self._length_s())
            await self._picture(window, "live")
            return
        await window.prefer(prefers_color_scheme="dark")
        await self._picture(window, "dark")
        await window.click("#save summary")
        await window.prefer(prefers_color_scheme="light")
        await self._picture(window, "save")
        await window.resize(360, 740, scale=2)
        await self._picture(window, "narrow")
        await window.goto(f"{self.server.addresses.page}meeting/monday?overlay")
        await window.resize(1280, 720)
        await window.wait(f"{ROWS}.length > 0")
        await self._picture(window, "overlay")

    async def _picture(self, window: Page, name: str) -> None:
        if self.pictures is not None:
            self.pictures.mkdir(parents=True, exist_ok=True)
            await window.screenshot(self.pictures / f"meeting-{name}.png")

    @contextlib.asynccontextmanager
    async def _reading(self, room: str, reader: Reader) -> AsyncIterator[None]:
        where = self.server.addresses
        url = f"ws://{where.host}:{where.port}/v1/meeting/{room}"
        async with connect(url, compression=None, max_size=None) as socket:
            task = asyncio.create_task(_read(socket, reader))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])


async def _native(server: Running, pcm: bytes) -> str:
    """Return the words of a recording as fast as our own client may send it."""
    audio = AudioFormat(encoding="pcm_s16le", rate=RATE_HZ)
    url = server.addresses.websocket
    async with dial(url, audio=audio, latency=LATENCY) as connection, asyncio.TaskGroup() as group:
        group.create_task(_send(connection, pcm))
        finals = [m.text async for m in connection if isinstance(m, Final) and m.text]
    return " ".join(finals)


async def _send(connection: Connection, pcm: bytes) -> None:
    await connection.send(pcm)
    await connection.stop()


async def _read(socket: Any, reader: Reader) -> None:
    clock = asyncio.get_running_loop().time
    with contextlib.suppress(ConnectionClosed):
        async for text in socket:
            message = json.loads(text)
            for line in message["finals"]:
                reader.lines[line["n"]] = line
                if message["type"] == "update":
                    reader.came_s[line["n"]] = clock()


def _figures(people: Sequence[Track], held: Held, native: dict[str, str]) -> dict[str, Any]:
    own = {name: " ".join(finals).split() for name, finals in held.said.items()}
    page = {t.name: " ".join(x for n, x in held.page if n == t.name).split() for t in people}
    texts = [[line["text"] for _, line in sorted(r.lines.items())] for r in held.readers]
    texts.append([line["text"] for _, line in sorted(held.late.lines.items())])
    return {
        "participants": len(people),
        "real": sum(track.is_real for track in people),
        "lines": len(held.page),
        "words": sum(map(len, own.values())),
        "read_by_all": page == own and all(text == texts[-1] for text in texts),
        "same_words_as_native": sum(own[t.name] == native[t.name].split() for t in people),
        "files": {form: len(text) for form, text in held.files.items()},
        "files_whole": all(is_whole(form, text, own) for form, text in held.files.items()),
        "spread_p99_ms": _spread(held.readers),
        "speaker_lag_p50_ms": round(float(np.median(held.lags_ms)), 1),
        "complaints": len(held.complaints),
    }


def is_whole(form: str, text: str, own: dict[str, list[str]]) -> bool:
    """Whether a saved file has every person's words, in order, and says whose they are."""
    if form == "json":
        segments = json.loads(text)["segments"]
        texts = {n: " ".join(s["text"] for s in segments if s["speaker"] == n) for n in own}
        return {name: said.split() for name, said in texts.items()} == own
    names = all(name in text for name, words in own.items() if words)
    every = sorted(word for words in own.values() for word in words)
    return names and sorted(_plain(form, text, list(own)).split()) == every


def _plain(form: str, text: str, names: Sequence[str]) -> str:
    """Return a file's words without names, times and marks."""
    if form == "md":
        body = text.split("\n\n", 2)[-1].replace("\\", "")
        return re.sub(r"\*\*[\d:]+ \w+\*\*( \*\(while .*? spoke\)\*)?: ", "", body)
    lines = [line for line in text.splitlines() if "-->" not in line and not line.isdigit()]
    body = "\n".join(line for line in lines if line != "WEBVTT")
    return re.sub(rf"^(<v \w+>|({'|'.join(names)}): )", "", body, flags=re.MULTILINE)


def _spread(readers: Sequence[Reader]) -> float | None:
    """Return how long after the first reader the last one has a line, p99 in ms."""
    both = [set(reader.came_s) for reader in readers]
    lines = set.intersection(*both) if both else set()
    spans = [
        max(reader.came_s[n] for reader in readers) - min(reader.came_s[n] for reader in readers)
        for n in lines
    ]
    return round(1000 * float(np.percentile(spans, 99)), 1) if spans else None


def _pcm(path: Path) -> bytes:
    samples, _ = soundfile.read(path, dtype="int16")
    return np.asarray(samples).tobytes()
