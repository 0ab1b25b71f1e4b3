"""The page in a real browser: hears, captions, saves, and can be used by everyone."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.cdp import Page, open_page
from tests.browser.conftest import RATE, beep
from tests.browser.fake_server import FakeServer, Utterance, serving

pytestmark = pytest.mark.io

SCRIPT = [
    Utterance("Turn on the <kitchen> lights.", 100, 600, settle_ms=100),
    Utterance(
        "Then tell me how long the river runs before it comes to the sea & whether it is wide.",
        800,
        1800,
        settle_ms=100,
    ),
    Utterance("Thank you very much indeed.", 2200, 3200, settle_ms=60_000),
]
SRT = """1
00:00:00,100 --> 00:00:00,800
Turn on the <kitchen> lights.

2
00:00:00,800 --> 00:00:01,274
Then tell me how long
the river runs before

3
00:00:01,274 --> 00:00:03,324
it comes to the sea & whether it is wide.
"""
FINALS = "document.querySelectorAll('.final').length"
STATE = "document.documentElement.dataset.state"
REFUSED = {
    "code": "over_capacity",
    "message": "The server is full: 4 of 4 streams are in use.",
    "fatal": True,
    "retry_after": 5,
}


Opened = Callable[..., AbstractAsyncContextManager[tuple[Page, FakeServer]]]


@pytest.fixture
def opened(devtools: str, tmp_path: Path) -> Opened:
    """Open the page of a server that plays a script; in the end nothing was complained of."""

    @asynccontextmanager
    async def opened(**script: Any) -> AsyncIterator[tuple[Page, FakeServer]]:
        server = FakeServer(**{"script": SCRIPT, **script})
        async with serving(server), open_page(devtools, tmp_path) as page:
            await page.goto(server.url)
            yield page, server
            assert page.complaints == []

    return opened


async def listen_to_two_finals(page: Page) -> None:
    await page.click("#toggle")
    await page.wait(f"{FINALS} === 2")
    await page.click("#toggle")
    await page.wait(f"{STATE} === 'finished'")


async def test_a_microphone_is_captioned_until_stop_and_the_last_words_still_come(
    opened: Opened,
) -> None:
    async with opened() as (page, server):
        await page.click("#toggle")
        await page.wait("document.querySelector('#open .tail')")
        await page.wait(f"{FINALS} === 2")
        await page.wait("document.querySelector('#open').textContent === 'thank you'")
        assert await page.text("#open .tail") == "thank"
        assert await page.text("#language") == "English"
        assert await page.text("#step") == "560"
        assert int(await page.text("#lag")) >= 0
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'finished'")
        assert "Thank you" in await page.text("#log")
        assert await page.text("#open") == ""
    start = server.starts[0]
    rate = start["audio"]["rate"]
    assert start["audio"] == {"encoding": "pcm_s16le", "rate": rate, "channels": 1}
    assert (start["v"], start["latency"]) == (1, "balanced")
    assert all(20 <= size / 2 * 1000 / rate <= 100 for size in server.packet_bytes[:-1])


async def test_a_subtitle_file_holds_each_final_in_lines_of_42(opened: Opened) -> None:
    async with opened(script=SCRIPT[:2]) as (page, _server):
        await listen_to_two_finals(page)
        await page.click("[data-format=srt]")
        assert await page.downloaded() == SRT
        await page.click("[data-format=vtt]")
        vtt = await page.downloaded()
        assert vtt.startswith(
            "WEBVTT\n\n00:00:00.100 --> 00:00:00.800\nTurn on the &lt;kitchen&gt;"
        )
        assert "the sea &amp; whether" in vtt
        await page.click("[data-format=txt]")
        assert await page.downloaded() == "".join(f"{each.text}\n" for each in SCRIPT[:2])
        await page.click("[data-format=json]")
        saved = json.loads(await page.downloaded())
        assert saved["model"] == "scripted"
        assert [each["text"] for each in saved["segments"]] == [each.text for each in SCRIPT[:2]]
        assert saved["segments"][0]["words"][0] == {
            "w": "Turn",
            "start_ms": 100,
            "end_ms": 200,
            "confidence": 0.9,
        }


async def test_one_key_starts_stops_copies_clears_and_resizes_unless_switched_off(
    opened: Opened,
) -> None:
    async with opened() as (page, _server):
        await page.key("s")
        await page.wait(f"{FINALS} === 1")
        await page.key("s")
        await page.wait(f"{STATE} === 'finished'")
        await page.key("c")
        await page.wait("document.querySelector('#notice').textContent.includes('copied')")
        assert (await page.js("navigator.clipboard.readText()")).startswith(SCRIPT[0].text + "\n")
        size = "getComputedStyle(document.querySelector('.page')).fontSize"
        before = await page.js(size)
        await page.key("+")
        assert float((await page.js(size))[:-2]) > float(before[:-2])
        await page.key("v")
        assert await page.js("document.documentElement.dataset.view") == "lines"
        await page.click("#shortcuts")
        await page.key("x")
        assert await page.js(FINALS) >= 1
        await page.click("#shortcuts")
        await page.key("x")
        assert await page.js(FINALS) == 0


async def test_the_focus_of_a_keyboard_is_never_lost(opened: Opened) -> None:
    focused = "document.activeElement.closest('[id]').id"
    async with opened() as (page, _server):
        await page.js("document.querySelector('#toggle').focus()")
        await listen_to_two_finals(page)
        assert await page.js(focused) == "toggle"
        await page.js("document.querySelector('#clear').focus()")
        await page.click("#clear")
        assert await page.js(focused) == "clear"
        await page.click("#undo")
        assert await page.js(focused) == "clear"
        await page.click("[name=source][value=file]")
        await page.click("#toggle")
        await page.js("document.querySelector('#error button').focus()")
        await page.click("#error button")
        assert await page.js(focused) == "toggle"


async def test_a_menu_that_the_focus_has_left_is_closed(opened: Opened) -> None:
    async with opened() as (page, _server):
        await listen_to_two_finals(page)
        await page.key("d")
        is_open = "document.querySelector('#save').open"
        await page.js("document.querySelector('[data-format=json]').focus()")
        assert await page.js(is_open)
        await page.js("document.querySelector('#clear').focus()")
        assert not await page.js(is_open)


async def test_a_cleared_transcript_comes_back_with_undo(opened: Opened) -> None:
    async with opened() as (page, _server):
        await listen_to_two_finals(page)
        log = await page.text("#log")
        await page.click("#clear")
        assert await page.text("#log") == ""
        await page.click("#undo")
        assert await page.text("#log") == log


async def test_what_is_cleared_while_it_runs_comes_back_before_what_follows(opened: Opened) -> None:
    async with opened() as (page, _server):
        await page.click("#toggle")
        await page.wait(f"{FINALS} === 1")
        await page.click("#clear")
        await page.wait(f"{FINALS} === 1")
        await page.click("#undo")
        said = "[...document.querySelectorAll('.final span')].map((each) => each.textContent)"
        assert await page.js(said) == [each.text for each in SCRIPT[:2]]
        assert await page.js(STATE) == "live"
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'finished'")


async def test_words_that_are_nowhere_else_are_not_left_without_a_question(
    opened: Opened, tmp_path: Path
) -> None:
    async with opened() as (page, server):
        await page.goto(server.url)
        assert page.dialogs == []
        await listen_to_two_finals(page)
        await page.click("[name=source][value=file]")
        await page.choose_file("#file", beep(tmp_path / "a.wav", rate=RATE, milliseconds=400))
        await page.js("document.querySelector('#pace').value = 'fast'")
        await page.click("#toggle")
        assert page.dialogs == ["confirm"]
        await page.wait(f"{STATE} === 'finished' && {FINALS} > 0")
        await page.goto(server.url)
        assert page.dialogs == ["confirm", "beforeunload"]
        await page.click("[name=source][value=microphone]")
        await listen_to_two_finals(page)
        await page.click("[data-format=txt]")
        await page.downloaded()
        await page.goto(server.url)
        assert page.dialogs == ["confirm", "beforeunload"]


async def test_a_stop_while_the_connection_is_lost_says_what_may_be_missing(opened: Opened) -> None:
    async with opened(drop_after_ms=1300, away_for=1000) as (page, _server):
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'lost'")
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'finished'")
        assert "The last words may be missing." in await page.text("#error span")
        assert await page.text("#notice span") == ""
        page.complaints.clear()  # the browser's own words for the handshakes in vain


async def test_a_lost_connection_is_told_once_and_goes_on_in_a_new_session(opened: Opened) -> None:
    async with opened(drop_after_ms=1300, away_for=2) as (page, server):
        await page.js(
            """globalThis.notices = [];
            const line = document.querySelector('#notice span');
            new MutationObserver(() => notices.push(line.textContent))
              .observe(line, {childList: true})"""
        )
        await page.click("#toggle")
        await page.wait(f"{FINALS} === 2 && document.querySelector('[data-cut]')")
        await page.wait(f"{FINALS} >= 3")
        assert await page.js(STATE) == "live"
        assert len(server.starts) == 2
        told = [each for each in await page.js("notices") if each]
        assert told == [
            "The connection was lost: listening goes on, words follow in a new session.",
            "Connected again, in a new session.",
        ]
        assert server.away_for == 0
        failed = [each for each in page.complaints if "WebSocket connection to" in each]
        assert page.complaints == failed  # the browser's own words for the handshakes in vain
        page.complaints.clear()
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'finished'")


async def test_audio_from_before_the_server_was_ready_is_sent_too(opened: Opened) -> None:
    async with opened(script=[]) as (page, server):
        told = await page.js(
            """import('/link.js').then(({ Link }) => new Promise((resolve) => {
              const told = [];
              const audio = { encoding: 'pcm_s16le', rate: 16000, channels: 1 };
              const start = { audio, latency: 'low' };
              const url = `ws://${location.host}/v1/stream`;
              const on = (type) => { told.push(type); if (type === 'ended') resolve(told); };
              const link = new Link({ url, start, live: true, on });
              for (let i = 0; i < 5; i += 1) link.push(new Int16Array(640));
              link.stop();
            }))"""
        )
    assert server.received_ms == [200]
    assert told[0] == "session"
    assert told[-2:] == ["done", "ended"]


async def test_a_start_before_the_model_is_loaded_goes_on_by_itself(opened: Opened) -> None:
    async with opened(is_loading=True) as (page, server):
        assert await page.text("#model") == ""
        await page.click("#toggle")
        await page.wait("document.querySelector('#notice').textContent.includes('loads its model')")
        server.is_loading = False
        await page.wait(f"{FINALS} === 2")
        assert await page.text("#notice span") == ""
        assert "scripted" in await page.text("#model")
        assert len(server.starts) == 1


async def test_a_wait_for_the_model_ends_with_stop(opened: Opened) -> None:
    async with opened(is_loading=True) as (page, _server):
        await page.click("#toggle")
        await page.wait("document.querySelector('#notice').textContent.includes('loads its model')")
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'idle'")


async def test_what_is_empty_is_not_offered_for_download(opened: Opened) -> None:
    async def offered(page: Page) -> bool:
        await page.click("#save summary")
        is_open = bool(await page.js("document.querySelector('#save').open"))
        await page.js("document.querySelector('#save').open = false")
        await page.key("d")
        by_key = bool(await page.js("document.querySelector('#save').open"))
        await page.js("document.querySelector('#save').open = false")
        assert by_key == is_open
        return is_open

    async with opened() as (page, _server):
        assert not await offered(page)
        await listen_to_two_finals(page)
        assert await offered(page)
        await page.click("#clear")
        assert not await offered(page)


async def test_a_refusal_is_one_sentence(opened: Opened) -> None:
    async with opened(refuse=REFUSED) as (page, _server):
        await page.click("#toggle")
        await page.wait("!document.querySelector('#error').hidden")
        assert await page.text("#error span") == REFUSED["message"]
        await page.wait(f"{STATE} === 'idle'")


async def test_a_token_that_is_none_is_told_with_what_to_do(opened: Opened) -> None:
    refusal = {"code": "unauthorized", "message": "not a key of this server", "fatal": True}
    async with opened(refuse=refusal) as (page, server):
        await page.click("#toggle")
        await page.wait("!document.querySelector('#error').hidden")
        assert "open this page with #token=" in await page.text("#error span")
        await page.wait(f"{STATE} === 'idle'")
        await page.js("location.hash = '#token=one two'")
        await page.click("#toggle")
        assert "cannot be one" in await page.text("#error span")
        assert await page.js(STATE) == "idle"
        assert len(server.starts) == 1


async def test_a_file_goes_as_fast_as_the_server_takes_it_at_its_own_rate(
    opened: Opened, tmp_path: Path
) -> None:
    clip = beep(tmp_path / "clip.wav", rate=8_000, milliseconds=40_000)
    async with opened() as (page, server):
        await page.click("[name=source][value=file]")
        await page.js("document.querySelector('#pace').value = 'fast'")
        await page.choose_file("#file", clip)
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'finished'")
        assert await page.text("#lag-name") == "Speed"
        assert float(await page.text("#lag")) > 1
    assert server.starts[0]["audio"]["rate"] == 8_000
    assert server.received_ms == [40_000]


async def test_a_microphone_that_gives_only_zeros_is_told_after_two_seconds(opened: Opened) -> None:
    async with opened(script=[]) as (page, _server):
        await page.click("#toggle")
        await page.wait("document.querySelector('#notice').textContent.includes('silent')")
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'idle'")


async def test_every_control_has_a_name_that_a_screen_reader_can_say(opened: Opened) -> None:
    roles = {"button", "radio", "combobox", "switch", "slider", "link", "textbox", "checkbox"}
    roles |= {"DisclosureTriangle", "log", "status", "region", "toolbar", "radiogroup", "group"}
    async with opened() as (page, _server):
        await page.js("document.querySelector('#save').open = true")
        named = await _names(page, roles)
        await page.click("#settings-open")
        named |= await _names(page, roles | {"dialog"})
    for expected in ("Start", "Microphone", "Copy transcript", "Download transcript", "Captions"):
        assert expected in named
    assert {"Settings", "Single-key shortcuts", "Text size"} <= named


async def _names(page: Page, roles: set[str]) -> set[str]:
    tree = (await page.send("Accessibility.getFullAXTree"))["nodes"]
    shown = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
    assert len(shown) > 5
    # roles that hold, rather than act, may stay nameless
    acting = [node for node in shown if node["role"]["value"] not in {"status", "group"}]
    nameless = [node["role"]["value"] for node in acting if not node.get("name", {}).get("value")]
    assert nameless == []
    return {node["name"]["value"] for node in shown if node.get("name", {}).get("value")}


async def test_only_look_aheads_that_the_model_has_are_offered(opened: Opened) -> None:
    async with opened(look_aheads=(13, 0)) as (page, server):
        await page.wait("document.querySelector('[name=latency][value=accurate]').checked")
        assert await page.js("document.querySelector('[name=latency][value=low]').disabled")
        await page.click("#toggle")
        await page.wait(f"{FINALS} === 1")
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'finished'")
    assert server.starts[0]["latency"] == "accurate"


async def test_only_finals_are_announced(opened: Opened) -> None:
    async with opened() as (page, _server):
        live = "document.querySelector('{}').getAttribute('aria-live')"
        assert await page.js(live.format("#log")) == "polite"
        assert await page.js(live.format("#open")) == "off"
        assert (
            await page.js(
                "document.querySelector('#log').contains(document.querySelector('#open'))"
            )
            is False
        )
        await page.click("#announce")
        assert await page.js(live.format("#log")) == "off"


async def test_text_and_tail_stand_out_from_their_ground_in_every_theme(opened: Opened) -> None:
    async with opened() as (page, _server):
        pairs = [("--ink", "--surface"), ("--soft", "--ground"), ("--soft", "--surface")]
        pairs += [("--soft", "--sunk"), ("--tail", "--surface"), ("--tail", "--sunk")]
        pairs += [
            ("--accent-ink", "--accent"),
            ("--stop-ink", "--stop"),
            ("--alert", "--alert-ground"),
        ]
        for theme in ("light", "dark", "contrast"):
            await page.click(f"[name=theme][value={theme}]")
            found = {(theme, *pair): await page.js(CONTRAST % pair) for pair in pairs}
            assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


CONTRAST = """(() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const pen = new OffscreenCanvas(1, 1).getContext('2d');
    pen.fillStyle = style.getPropertyValue(name);
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => {
      const c = v / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [a, b] = [light('%s'), light('%s')].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
})()"""


async def test_the_page_reflows_without_scrolling_sideways(opened: Opened) -> None:
    async with opened() as (page, _server):
        outside = """[...document.querySelectorAll('button, select, label, summary, p')]
          .filter((each) => each.offsetParent && !each.matches('.skip'))
          .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)
          .map((each) => each.outerHTML)"""
        for size in ((320, 568), (360, 740), (1280, 256)):
            await page.resize(*size)
            assert await page.js(outside) == [], size
            assert await page.js("document.documentElement.scrollWidth <= innerWidth"), size


async def test_the_two_line_view_shows_the_last_lines_and_keeps_its_height(opened: Opened) -> None:
    async with opened() as (page, _server):
        await page.click("[name=view][value=lines]")
        await page.click("#toggle")
        await page.wait(f"{FINALS} === 2")
        lines = await page.js(
            "[...document.querySelectorAll('#roll div')].map((d) => d.textContent)"
        )
        assert lines == ["before it comes to the sea & whether it is", "wide."]
        tall = "document.querySelector('#roll').offsetHeight"
        height = await page.js(tall)
        await page.wait("document.querySelector('#open').textContent !== ''")
        assert await page.js(tall) == height
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'finished'")


async def test_the_two_lines_fit_into_a_window_that_shrinks_and_with_larger_text(
    opened: Opened,
) -> None:
    cut = """[...document.querySelectorAll('#roll div')].some((d) => d.scrollWidth > d.clientWidth)
      || document.querySelector('#roll').getBoundingClientRect().right > innerWidth"""
    async with opened() as (page, _server):
        await page.click("[name=view][value=lines]")
        await page.click("#toggle")
        await page.wait(f"{FINALS} === 2")
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'finished'")
        await page.resize(320, 640)
        await page.wait(f"!({cut})")
        for _ in range(4):
            await page.click("#larger")
        await page.wait(f"!({cut})")


async def test_scrolling_back_pauses_and_new_finals_are_counted(opened: Opened) -> None:
    async with opened() as (page, _server):
        await page.click("#toggle")
        await page.wait(f"{FINALS} === 1")
        await page.click("#pause")
        assert (
            await page.js("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
        )
        await page.wait(f"{FINALS} === 2")
        assert await page.text("#jump span") == "Follow live, 1 new"
        await page.click("#jump")
        assert await page.js("document.querySelector('#jump').hidden")
        await page.click("#toggle")
        await page.wait(f"{STATE} === 'finished'")


async def test_a_partial_never_has_fewer_words_than_the_last_one_shown(opened: Opened) -> None:
    async with opened() as (page, _server):
        shown = await page.js(
            """import('/captions.js').then(({ Transcript }) => {
              const transcript = new Transcript();
              const partial = (id, text) => transcript.partial(
                { id, channel: 0, stable: '', text, start_ms: 0, end_ms: 1 })?.words.join(' ');
              const seen = [partial(0, 'recognise speech today'), partial(0, 'wreck a')];
              transcript.final({ id: 0, channel: 0, text: 'Wreck a.', start_ms: 0, end_ms: 1 });
              return [...seen, partial(0, 'late') ?? null, partial(1, 'new')];
            })"""
        )
    assert shown == ["recognise speech today", "wreck a today", None, "new"]


async def test_lag_is_counted_from_the_packet_that_completes_the_decoded_sample(
    opened: Opened,
) -> None:
    async with opened() as (page, _server):
        lags = await page.js(
            """import('/protocol.js').then(({ SendClock }) => {
              const clock = new SendClock();
              [[640, 10], [1280, 50], [1920, 90]].forEach(([end, at]) => clock.note(end, at));
              const asked = [[0, 100], [700, 100], [1280, 120], [5000, 200]];
              return asked.map(([done, now]) => clock.lag(done, now));
            })"""
        )
    assert lags == [None, 50, 70, None]
