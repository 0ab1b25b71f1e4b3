"""Take the pictures of the page for the docs from a running server.

``python -m tests.browser.screenshots http://127.0.0.1:8765/ samples/05-river.ogg docs``

Does: play a clip into the page as its microphone; idle, live and finished, wide and narrow.
Does not know: how the server was started, which model it runs.
"""

import argparse
import asyncio
import shutil
import tempfile
from pathlib import Path

import soundfile

from tests.browser.cdp import Page, browser, find_chromium, open_page

STATE = "document.documentElement.dataset.state"
WIDE, NARROW = (1280, 800), (360, 740)


async def take(page: Page, url: str, folder: Path, *, seconds: float) -> None:
    """Take page.png (live, light), page-dark.png (two lines) and page-narrow.png (finished)."""
    await page.resize(*WIDE)
    await page.prefer(prefers_color_scheme="light")
    await page.goto(url)
    await page.screenshot(folder / "page-idle.png")
    await page.click("#toggle")
    await page.wait(f"{STATE} === 'live'")
    await asyncio.sleep(seconds)  # the clip is being said
    await page.wait("document.querySelector('#open').textContent.length > 24", seconds=60)
    await page.screenshot(folder / "page.png")
    await page.prefer(prefers_color_scheme="dark")
    await page.click("[name=view][value=lines]")
    await page.wait("document.querySelector('#roll .tail')", seconds=60)
    await page.screenshot(folder / "page-dark.png")
    await page.click("[name=view][value=transcript]")
    await page.click("#toggle")
    await page.wait(f"{STATE} === 'finished'")
    await page.resize(*NARROW, scale=2)
    await page.screenshot(folder / "page-narrow.png")


async def main() -> None:
    """Read the arguments, run the browser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("clip", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=8, help="what is said before the picture")
    options = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        parser.error("no browser: install Debian's package chromium")
    scratch = Path(tempfile.mkdtemp())
    samples, rate = soundfile.read(options.clip)
    soundfile.write(scratch / "clip.wav", samples, rate, subtype="PCM_16")
    try:
        with browser(executable, microphone=scratch / "clip.wav") as address:
            async with open_page(address, scratch) as page:
                await take(page, options.url, options.folder, seconds=options.seconds)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    asyncio.run(main())
