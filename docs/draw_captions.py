"""Draw docs/captions.svg: what `rivulet captions` shows while samples/12-meeting.ogg is spoken.

Does: stream the sample through a running server, keep the terminal's rows near its end.
Does not know: how captions are wrapped (clients.console) or words found.

  rivulet serve &  python docs/draw_captions.py
"""

import asyncio
import io
from html import escape
from pathlib import Path

from clients.audiofile import open_audio
from clients.captions import DEFAULT_URL
from clients.console import DIM_ITALIC, PLAIN, CaptionScreen
from clients.live import Session, stream_file
from server.wire.messages import AudioFormat

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "samples" / "12-meeting.ogg"
COLUMNS, ROW, LEFT = 64, 22, 18


class Camera:
    """Draws captions as the command does and keeps the picture with the most rows and a tail."""

    def __init__(self) -> None:
        self.solid = list[str]()
        self.tails = dict[str, str]()
        self.best: tuple[list[str], list[str]] = ([], [])

    def partial(self, name: str, text: str) -> None:
        """Show the open text of a channel."""
        self.tails[name] = text
        if len(text.split()) >= 4:
            self.best = (list(self.solid), self._rows(name, text))

    def final(self, name: str, text: str) -> None:
        """Show a finished segment of a channel."""
        self.tails.pop(name, None)
        if text.strip():
            self.solid += self._rows(name, text)

    @staticmethod
    def _rows(name: str, text: str) -> list[str]:
        out = io.StringIO()
        CaptionScreen(out, out, is_terminal=True, width=COLUMNS).final(name, text)
        plain = out.getvalue().replace(DIM_ITALIC, "").replace(PLAIN, "").replace("\r\x1b[K", "")
        return plain.rstrip("\n").split("\n")


def drawn(solid: list[str], tail: list[str]) -> str:
    """Return the picture of a terminal."""
    rows = [f"$ rivulet captions samples/{SAMPLE.name}", *solid[-10:]]
    height = ROW * (len(rows) + len(tail)) + 58
    texts = []
    for number, row in enumerate([*rows, *tail]):
        kind = "p" if number == 0 else "t" if number >= len(rows) else "f"
        y = 62 + number * ROW
        texts.append(f'<text x="{LEFT}" y="{y}" class="{kind}">{escape(row)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" role="img" '
        'aria-label="Live captions in a terminal: finals solid, the open tail dim and italic">\n'
        "<style>text{font:15px ui-monospace,Menlo,Consolas,monospace;white-space:pre}"
        ".p{fill:#7ee2a8}.f{fill:#eef2f6}.t{fill:#9aa7b4;font-style:italic}</style>\n"
        f'<rect width="640" height="{height}" rx="10" fill="#14191f"/>\n'
        '<circle cx="22" cy="20" r="6" fill="#ff5f57"/><circle cx="42" cy="20" r="6" '
        'fill="#febc2e"/><circle cx="62" cy="20" r="6" fill="#28c840"/>\n'
        + "\n".join(texts)
        + "\n</svg>\n"
    )


async def main() -> None:
    """Stream and draw."""
    file, camera = open_audio(SAMPLE), Camera()
    audio = AudioFormat(encoding="pcm_s16le", rate=file.rate, channels=file.channels)
    session = Session(url=DEFAULT_URL, audio=audio, names=("left", "right"))
    total = file.frames * file.rate // file.own_rate
    heard = await stream_file(file.packets(), total, session, camera)
    if heard.error:
        raise SystemExit(heard.error)
    (ROOT / "docs" / "captions.svg").write_text(drawn(*camera.best))


if __name__ == "__main__":
    asyncio.run(main())
