"""The page and the real server, with the scripted engine behind it."""

import json
import wave
from pathlib import Path

import pytest

from tests.browser.cdp import Page, open_page
from tests.io.serving import RATE_HZ, serving, speech

pytestmark = pytest.mark.io


@pytest.mark.parametrize(("latency", "pace"), [("low", "paced"), ("accurate", "fast")])
async def test_a_file_becomes_captions_through_the_real_server(
    devtools: str, tmp_path: Path, latency: str, pace: str
) -> None:
    clip = tmp_path / "clip.wav"
    with wave.open(str(clip), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(speech("turn on the light") + speech("thank you"))
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page)
        await page.click(f"[name=latency][value={latency}]")
        await page.click("[name=source][value=file]")
        await page.js(f"document.querySelector('#pace').value = '{pace}'")
        await page.choose_file("#file", clip)
        await page.click("#toggle")
        await page.wait("document.documentElement.dataset.state === 'finished'")
        said = await page.js(
            "[...document.querySelectorAll('.final span')].map((e) => e.innerText)"
        )
        assert said == ["turn on the light", "thank you"]
        assert await page.text("#step") == {"low": "160", "accurate": "1120"}[latency]
        assert float(await page.text("#lag")) >= 0
        assert await page.text("#language") == "English"
        await page.click("[data-format=txt]")
        assert await page.downloaded() == "turn on the light\nthank you\n"
        assert page.complaints == []


async def test_readable_text_is_a_switch_in_the_settings(devtools: str, tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    with wave.open(str(clip), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(speech("turn on the light"))
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page)
        await page.js("document.querySelector('#readable').click()")
        await page.click("[name=source][value=file]")
        await page.js("document.querySelector('#pace').value = 'fast'")
        await page.choose_file("#file", clip)
        await page.click("#toggle")
        await page.wait("document.documentElement.dataset.state === 'finished'")
        assert await page.js("document.querySelector('.final span').innerText") == (
            "Turn on the light."
        )
        assert page.complaints == []


async def test_names_and_terms_are_boosted_from_the_start_and_while_it_runs(
    devtools: str, tmp_path: Path
) -> None:
    async with serving() as server, open_page(devtools, tmp_path) as page:
        await page.goto(server.addresses.page)
        await page.js(TAP)
        await write_terms(page, "moon rock, sun\nmoon rock")
        await page.click("#toggle")
        await page.wait("document.documentElement.dataset.state === 'live'")
        await write_terms(page, "river")
        await page.wait("window.sent.some((text) => text.includes('configure'))")
        sent = [json.loads(text) for text in await page.js("window.sent")]
        await page.goto(server.addresses.page)
        assert await page.js("document.querySelector('#vocabulary').value") == "river"
    start = next(message for message in sent if message["type"] == "start")
    changes = [message["boost"] for message in sent if message["type"] == "configure"]
    assert start["boost"] == [{"phrase": "moon rock"}, {"phrase": "sun"}]
    assert changes == [[{"phrase": "river"}]]


TAP = """{
  window.sent = [];
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (data) {
    if (typeof data === "string") window.sent.push(data);
    return send.call(this, data);
  };
}"""


async def write_terms(page: Page, text: str) -> None:
    await page.js(
        f"{{const box = document.querySelector('#vocabulary'); box.value = {json.dumps(text)};"
        "box.dispatchEvent(new Event('change'))}"
    )
