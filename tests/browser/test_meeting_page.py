"""The page of a meeting in a real browser, before the real server with the scripted engine."""

import asyncio
import json
import wave
from pathlib import Path

import pytest

from server.keys import add_key
from tests.browser.cdp import Page, open_page
from tests.io.serving import (
    RATE_HZ,
    Message,
    dial,
    read_until,
    serving,
    speech,
    start,
    talk,
)

pytestmark = pytest.mark.io
STATE = "document.documentElement.dataset.state"
ROWS = "document.querySelectorAll('#log .said').length"
SAID = """[...document.querySelectorAll('#log .said')].filter((row) => !row.hidden)
  .map((row) => [row.dataset.name, row.children[2].textContent])"""


def meeting(*speakers: str) -> Message:
    return {"meeting": {"id": "monday", "speakers": list(speakers)}}


async def names(page: Page) -> list[str]:
    """The names that are seen."""
    found: list[str] = await page.js(
        "[...document.querySelectorAll('#log .said:not([data-again]) b')].map((e) => e.innerText)"
    )
    return found


async def test_who_reads_along_sees_open_words_finals_and_who_says_them(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{STATE} === 'waiting'")
        async with dial(server) as socket:
            await socket.send(start(**meeting("Ann")))
            await read_until(socket, "ready")
            await page.wait(f"{STATE} === 'live'")
            await socket.send(speech("turn on the light", silence_ms=160))
            await page.wait("document.querySelector('#open .said')?.innerText.includes('turn on')")
            await socket.send('{"type":"stop"}')
            await page.wait(f"{ROWS} === 1")
        await talk(server, speech("yes") + speech("thank you"), **meeting("Bob"))
        await page.wait(f"{ROWS} === 3")
        assert await page.js(SAID) == [
            ["Ann", "turn on the light"],
            ["Bob", "yes"],
            ["Bob", "thank you"],
        ]
        assert await names(page) == ["Ann:", "Bob:"]
        assert await page.js("document.querySelector('#open').childElementCount") == 0
        assert page.complaints == []


async def test_who_comes_late_reads_it_all_and_finds_words_in_it(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await talk(server, speech("turn on the light"), **meeting("Ann"))
        await talk(server, speech("yes thank you"), **meeting("Bob"))
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{ROWS} === 2")
        await page.js(
            "{const s = document.querySelector('#search'); s.value = 'THANK';"
            "s.dispatchEvent(new Event('input'))}"
        )
        assert await page.js(SAID) == [["Bob", "yes thank you"]]
        assert await page.text("#found") == "1 found"
        assert await page.text("#log mark") == "thank"
        await page.click("#copy")
        await page.wait("document.querySelector('#copy').textContent === 'Copied'")
        copied = await page.js("navigator.clipboard.readText()")
        assert copied == "Ann: turn on the light\nBob: yes thank you\n"
        assert page.complaints == []


async def test_a_copy_that_the_browser_refuses_is_told(devtools: str, tmp_path: Path) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await talk(server, speech("turn on"), **meeting("Ann"))
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{ROWS} === 1")
        # as on a page that came over http from elsewhere
        await page.js("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        await page.click("#copy")
        await page.wait("document.querySelector('#copy').textContent === 'Not allowed: save'")
        assert page.complaints == []


async def test_who_reads_along_needs_a_token_where_keys_are_asked_for(
    devtools: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    add_key(keys, "shop", ("stream", "tokens"), 2)
    async with serving(keys=str(keys)) as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{STATE} === 'lost'")
        assert "may need ?token=" in await page.text("#state")


async def test_a_lost_connection_comes_back_with_the_same_text(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await talk(server, speech("turn on"), **meeting("Ann"))
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{ROWS} === 1")
        rooms = server.gateway._rooms
        for viewer in list(rooms._rooms["monday"].viewers):
            viewer.end()
        await page.wait(f"{STATE} === 'lost'")
        await page.wait(f"{STATE} === 'waiting'")
        await talk(server, speech("yes"), **meeting("Ann"))
        await page.wait(f"{ROWS} === 2")
        assert await page.js(SAID) == [["Ann", "turn on"], ["Ann", "yes"]]


async def test_the_overlay_is_clear_and_shows_the_newest_words_only(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        for text in ("turn on the light", "yes", "thank you"):
            await talk(server, speech(text), **meeting("Ann"))
        await page.goto(server.addresses.page + "meeting/monday?overlay")
        await page.wait(f"{ROWS} === 3")
        assert await page.js(SAID) == [["Ann", "yes"], ["Ann", "thank you"]]
        clear = "rgba(0, 0, 0, 0)"
        for element in ("document.documentElement", "document.body"):
            assert await page.js(f"getComputedStyle({element}).backgroundColor") == clear
        assert await page.js("getComputedStyle(document.querySelector('.top')).display") == "none"
        size = await page.js(
            "parseFloat(getComputedStyle(document.querySelector('.said')).fontSize)"
        )
        assert size >= 28
        assert page.complaints == []


async def test_many_speakers_at_once_are_in_the_order_of_time(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page + "meeting/monday")
        said = speech("turn on the light") + speech("yes")
        await asyncio.gather(*(talk(server, said, **meeting(name)) for name in "ABCD"))
        await page.wait(f"{ROWS} === 8")
        starts = await page.js(
            "[...document.querySelectorAll('#log .said')].map((e) => Number(e.dataset.start))"
        )
        assert starts == sorted(starts)
        assert page.complaints == []


async def test_a_page_opened_for_a_meeting_speaks_in_it_under_a_name(
    devtools: str, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.wav"
    with wave.open(str(clip), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(speech("turn on the light") + speech("thank you"))
    async with (
        serving() as server,
        open_page(devtools, tmp_path) as page,
        open_page(devtools, tmp_path) as reading,
    ):
        await reading.goto(server.addresses.page + "meeting/monday")
        await page.goto(server.addresses.page + "?meeting=monday&name=Ann")
        assert await page.js("new URL(document.querySelector('#read-along').href).pathname") == (
            "/meeting/monday"
        )
        await page.click("[name=source][value=file]")
        await page.js("document.querySelector('#pace').value = 'fast'")
        await page.choose_file("#file", clip)
        await page.click("#toggle")
        await reading.wait(f"{ROWS} === 2")
        assert await reading.js(SAID) == [["Ann", "turn on the light"], ["Ann", "thank you"]]
        assert page.complaints + reading.complaints == []


async def test_what_is_saved_says_who_spoke_when_and_over_whom(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page + "meeting/monday")
        async with dial(server) as ann, dial(server) as bob:
            for socket, name in ((ann, "Ann"), (bob, "B*b")):
                await socket.send(start(**meeting(name)))
                await read_until(socket, "ready")
            await ann.send(speech("turn on the light please"))
            await bob.send(bytes(2_560) + speech("yes thank you"))
            for socket in (ann, bob):
                await socket.send('{"type":"stop"}')
            await page.wait(f"{ROWS} === 2")
        saved = {}
        for form in ("txt", "md", "srt", "vtt", "json"):
            await page.click(f"[data-format={form}]")
            saved[form] = await page.downloaded()
    assert saved["txt"] == "Ann: turn on the light please\nB*b: yes thank you\n"
    head, names, first, second = saved["md"].rstrip("\n").split("\n\n")
    assert head == "# Meeting monday"
    assert names.startswith("Ann, B\\*b. 00:00:0")
    assert first.endswith("Ann**: turn on the light please")
    assert second.endswith(" B\\*b** *(while Ann spoke)*: yes thank you")
    assert saved["srt"].startswith("1\n00:00:00,")
    assert "\nAnn: turn on the light please\n\n2\n" in saved["srt"]
    assert saved["vtt"].startswith("WEBVTT\n\n00:00:00.")
    assert "\n<v B*b>yes thank you\n" in saved["vtt"]
    segments = json.loads(saved["json"])["segments"]
    assert [(s["speaker"], s["text"]) for s in segments] == [
        ("Ann", "turn on the light please"),
        ("B*b", "yes thank you"),
    ]
