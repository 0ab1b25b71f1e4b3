"""The page of a meeting in a real browser, before the real server with the scripted engine."""

import asyncio
import json
import wave
from pathlib import Path

import pytest

from server.app import Running
from server.keys import add_key
from server.rooms import Room
from server.wire.messages import Final
from tests.browser.cdp import Page, open_page
from tests.io.serving import (
    RATE_HZ,
    Message,
    dial,
    get,
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


class Saying:
    """Finals in the room, without audio: each behind the one before."""

    def __init__(self, server: Running) -> None:
        self._room = server.gateway._rooms._room("monday")
        self._at_ms = 0

    def say(self, name: str, text: str, *, seconds: float = 1) -> None:
        voice = self._room.enter(f"{self._at_ms}", (name,))
        voice.offset_ms, end_ms = 0, self._at_ms + round(1000 * seconds)
        voice.hear(
            Final(id=0, channel=0, text=text, start_ms=self._at_ms, end_ms=end_ms, cause="endpoint")
        )
        self._at_ms = end_ms


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
    key = add_key(keys, "shop", ("stream", "tokens"), 2)
    async with serving(keys=str(keys)) as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{STATE} === 'lost'")
        assert "ask for a new one" in await page.text("#state")
        shown = f"Authorization: Bearer {key}\r\n"
        answer = await get(server, "/v1/tokens", method="POST", headers=shown)
        token = json.loads(answer["body"])["token"]
        await page.goto(server.addresses.page + f"meeting/monday?token={token}")
        await page.wait(f"{STATE} === 'waiting'")


async def cut_off(page: Page, room: Room) -> None:
    """End the connections of who reads along; the page comes back by itself."""
    for viewer in list(room.viewers):
        viewer.end()
    await page.wait(f"{STATE} === 'lost'")
    await page.wait(f"{STATE} === 'waiting'")


async def test_a_lost_connection_comes_back_with_the_same_text(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await talk(server, speech("turn on"), **meeting("Ann"))
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{ROWS} === 1")
        await cut_off(page, server.gateway._rooms._rooms["monday"])
        await talk(server, speech("yes"), **meeting("Ann"))
        await page.wait(f"{ROWS} === 2")
        assert await page.js(SAID) == [["Ann", "turn on"], ["Ann", "yes"]]


async def test_a_room_that_began_anew_goes_on_behind_what_was_read(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await talk(server, speech("turn on the light"), **meeting("Ann"))
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{ROWS} === 1")
        await cut_off(page, server.gateway._rooms._rooms.pop("monday"))  # as of another server
        await talk(server, speech("yes"), **meeting("Bob"))
        await page.wait(f"{ROWS} === 2")
        assert await page.js(SAID) == [["Ann", "turn on the light"], ["Bob", "yes"]]
        await page.click("[data-format=json]")
        first, second = json.loads(await page.downloaded())["segments"]
        assert second["start_ms"] >= first["end_ms"]
        assert page.complaints == []


async def test_a_search_shows_every_hit_and_who_said_it(devtools: str, tmp_path: Path) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        room = Saying(server)
        for text in ("no (matter)", "the the THE end", "nothing"):
            room.say("Ann", text)
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{ROWS} === 3")
        await page.js(
            "{const s = document.querySelector('#search'); s.value = 'the';"
            "s.dispatchEvent(new Event('input'))}"
        )
        room.say("Ann", "then")
        await page.wait(f"{ROWS} === 4")
        room.say("Ann", "no more")
        await page.wait(f"{ROWS} === 5")
        assert await page.js(SAID) == [["Ann", "the the THE end"], ["Ann", "then"]]
        assert await page.text("#found") == "2 found"
        assert await page.js("document.querySelectorAll('#log mark').length") == 4
        seen = """[...document.querySelectorAll('#log .said:not([hidden]) b')]
          .map((name) => name.offsetHeight > 8)"""
        assert await page.js(seen) == [True, True]
        for text, count in (("(MAT", 1), ("", 5)):
            await page.js(
                "{const s = document.querySelector('#search'); s.value = " + json.dumps(text) + ";"
                "s.dispatchEvent(new Event('input'))}"
            )
            assert len(await page.js(SAID)) == count
        assert await page.js("document.querySelectorAll('#log mark').length") == 0
        assert page.complaints == []


async def test_the_overlay_shows_whole_lines_and_who_says_them(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        room = Saying(server)
        room.say("Ann", "it is a long story " * 30)
        room.say("x" * 64, "and this is the end of another " * 30)
        await page.resize(1280, 720)
        await page.goto(server.addresses.page + "meeting/monday?overlay")
        await page.wait(f"{ROWS} === 2")
        boxes = await page.js(
            """[...document.querySelectorAll('.said')].map((row) => {
              const words = row.querySelector('.words');
              const line = parseFloat(getComputedStyle(words).lineHeight);
              const end = words.scrollTop + words.clientHeight;
              return [words.clientHeight / line, end - words.scrollHeight,
                row.querySelector('b').offsetHeight > 10, row.getBoundingClientRect().top >= 0];
            })"""
        )
        assert [round(lines, 1) for lines, *_ in boxes] == [2, 2]
        assert [rest for _, *rest in boxes] == [[0, True, True], [0, True, True]]
        assert page.complaints == []


async def test_subtitles_can_be_read_and_say_in_each_cue_who_speaks(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        room = Saying(server)
        room.say("Ann", "word " * 30, seconds=3)
        room.say("x" * 64, "yes", seconds=0.1)
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{ROWS} === 2")
        await page.click("[data-format=srt]")
        cues = [cue.splitlines() for cue in (await page.downloaded()).split("\n\n")]
    assert len(cues) == 3
    assert [lines[0].partition(":")[0] for _, _, *lines in cues] == ["Ann"] * 2 + ["x" * 17 + "…"]
    assert all(len(line) <= 42 for _, _, *lines in cues for line in lines)
    assert all(len(lines) <= 2 for _, _, *lines in cues)
    assert cues[-1][1] == "00:00:03,000 --> 00:00:04,150"  # 23 characters, 20 a second


async def test_minutes_say_the_time_every_minute_and_no_name_is_markup(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        room = Saying(server)
        room.say("1. ~~~ & $", "word", seconds=30)
        for text in ("- so", "it is", "still"):
            room.say("1. ~~~ & $", text, seconds=30)
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{ROWS} === 4")
        await page.click("[data-format=md]")
        _, names, first, second = (await page.downloaded()).rstrip("\n").split("\n\n")
    assert names == r"1\. \~\~\~ \& \$. 00:02:00."
    assert first == r"**00:00:00 1\. \~\~\~ \& \$**: word \- so"
    assert second == r"**00:01:00 1\. \~\~\~ \& \$**: it is still"


@pytest.mark.parametrize(("wanted", "live"), [("true", "polite"), ("false", "off")])
async def test_finals_are_read_out_where_that_is_wanted(
    devtools: str, tmp_path: Path, wanted: str, live: str
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page + "meeting/monday")
        await page.js(f"preferences.set('announce', {wanted})")
        await page.goto(server.addresses.page + "meeting/monday")
        await page.wait(f"{STATE} === 'waiting'")
        await page.js("new Promise((resolve) => setTimeout(resolve, 600))")  # it waits as long
        assert await page.js("document.querySelector('#log').ariaLive") == live


async def test_the_menu_closes_by_key_and_gives_the_focus_back(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page + "meeting/monday")
        focused = "document.activeElement === document.querySelector('#save summary')"
        opened = "document.querySelector('#save').open"
        await page.click("#save summary")
        await page.js("document.querySelector('[data-format=txt]').focus()")
        await page.key("Escape")
        assert [await page.js(opened), await page.js(focused)] == [False, True]
        await page.click("#save summary")
        await page.click("[data-format=txt]")
        assert [await page.js(opened), await page.js(focused)] == [False, True]
        assert await page.downloaded() == ""  # of an empty meeting


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


async def test_the_overlay_clears_when_nobody_says_more_and_cleared_words_stay_away(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page + "meeting/monday?overlay")
        await page.wait(f"{STATE} === 'waiting'")
        await page.js(  # the clock stands
            "{const real = setTimeout;"
            "window.setTimeout = (then, ms) => ms === 6000 ? (window.over = then) : real(then, ms)}"
        )
        await talk(server, speech("turn on"), **meeting("Ann"))
        await page.wait(f"{STATE} === 'waiting' && {ROWS} === 1")
        assert await page.js(SAID) == [["Ann", "turn on"]]
        await page.js("over()")
        assert await page.js(SAID) == []
        await cut_off(page, server.gateway._rooms._rooms["monday"])
        assert await page.js(SAID) == []
        await talk(server, speech("yes"), **meeting("Bob"))
        await page.wait(f"{ROWS} === 2")
        assert await page.js(SAID) == [["Bob", "yes"]]
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
