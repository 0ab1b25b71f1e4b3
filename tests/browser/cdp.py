"""A headless Chromium, driven over the DevTools protocol.

Does: start the browser with a fake microphone, open pages in contexts of their own, run
JavaScript, press keys, keep what the console and the security policy complain about.
Does not know: the page under test.
"""

import asyncio
import base64
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--mute-audio",
    "--autoplay-policy=user-gesture-required",
    "--hide-scrollbars",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--remote-debugging-port=0",
)


class ScriptError(AssertionError):
    """JavaScript in the page threw, or a wait ran out."""


def find_chromium() -> str | None:
    """The browser's path, or None when it is not installed."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    return None


@contextmanager
def browser(executable: str, *, microphone: Path) -> Iterator[str]:
    """Run a browser whose microphone plays a WAV file once; yields its DevTools address."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                executable,
                *FLAGS,
                f"--use-file-for-fake-audio-capture={microphone}%noloop",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        log = process.stderr
        assert log is not None
        try:
            yield _address(iter(log.readline, ""))
        finally:
            process.terminate()
            process.wait(timeout=20)
            log.close()


def _address(lines: Iterator[str]) -> str:
    seen = []
    for line in lines:
        seen.append(line)
        if found := re.search(r"DevTools listening on (ws://\S+)", line):
            return found[1]
    raise RuntimeError("the browser did not start:\n" + "".join(seen))


@dataclass
class Page:
    """One tab. ``complaints`` holds console errors, exceptions and policy violations."""

    socket: ClientConnection
    session: str
    downloads: Path
    complaints: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    """Kinds of the questions that the browser asked; each was answered with yes."""
    _number: int = 0
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _finished: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    _yes: set[asyncio.Task[object]] = field(default_factory=set)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a DevTools method of this tab."""
        return await self.call(method, params, session=self.session)

    async def call(
        self, method: str, params: dict[str, Any], *, session: str | None = None
    ) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        answer = asyncio.get_running_loop().create_future()
        self._answers[self._number] = answer
        await self.socket.send(json.dumps(message))
        return await answer

    async def listen(self) -> None:
        async for text in self.socket:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if "error" in message:
                    answer.set_exception(ScriptError(message["error"]["message"]))
                else:
                    answer.set_result(message["result"])
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning"}:
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(params["entry"]["text"])
        elif method == "Browser.downloadProgress" and params["state"] == "completed":
            self._finished.put_nowait(params["guid"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(params["type"])
            answer = self.send("Page.handleJavaScriptDialog", accept=True)
            self._yes.add(asyncio.create_task(answer))

    async def goto(self, url: str) -> None:
        await self.send("Page.navigate", url=url)
        await self.wait(
            "document.readyState === 'complete' && 'state' in document.body.parentElement.dataset"
        )

    async def js(self, expression: str) -> Any:
        """Evaluate as if a person had just clicked (audio may start); promises are awaited."""
        result = await self.send(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in result:
            raise ScriptError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    async def wait(self, condition: str, *, seconds: float = 20) -> None:
        """Until a JavaScript condition holds, looked at on every frame."""
        met = await self.js(
            f"""new Promise((resolve) => {{
              const limit = performance.now() + {seconds * 1000};
              const look = () => {{
                if ({condition}) resolve(true);
                else if (performance.now() > limit) resolve(false);
                else setTimeout(look, 15);
              }};
              look();
            }})"""
        )
        if not met:
            text = await self.js("document.body.innerText")
            raise ScriptError(f"never true: {condition}\npage: {text}\n{self.complaints}")

    async def click(self, selector: str) -> None:
        await self.js(f"document.querySelector({json.dumps(selector)}).click()")

    async def text(self, selector: str) -> str:
        found = await self.js(f"document.querySelector({json.dumps(selector)}).textContent")
        return str(found)

    async def key(self, key: str) -> None:
        text = key if len(key) == 1 else ""
        down = {"type": "keyDown", "key": key, "text": text}
        await self.send("Input.dispatchKeyEvent", **down)
        await self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def choose_file(self, selector: str, path: Path) -> None:
        root = await self.send("DOM.getDocument")
        node = await self.send(
            "DOM.querySelector", nodeId=root["root"]["nodeId"], selector=selector
        )
        await self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    async def downloaded(self) -> str:
        """The text of the next finished download."""
        guid = await asyncio.wait_for(self._finished.get(), 20)
        return (self.downloads / guid).read_text(encoding="utf-8")

    async def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    async def prefer(self, **features: str) -> None:
        """Emulate media features, as ``prefers_color_scheme="dark"``."""
        named = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        await self.send("Emulation.setEmulatedMedia", features=named)

    async def screenshot(self, path: Path) -> None:
        shot = await self.send("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


@asynccontextmanager
async def open_page(devtools: str, downloads: Path) -> AsyncIterator[Page]:
    """A tab in a fresh context: no storage, no permissions but the clipboard."""
    async with connect(devtools, max_size=None, compression=None) as socket:
        page = Page(socket, "", downloads)
        listener = asyncio.create_task(page.listen())
        context = (await page.call("Target.createBrowserContext", {}))["browserContextId"]
        target = await page.call(
            "Target.createTarget", {"url": "about:blank", "browserContextId": context}
        )
        attached = await page.call(
            "Target.attachToTarget", {"targetId": target["targetId"], "flatten": True}
        )
        page.session = attached["sessionId"]
        permissions = ["clipboardReadWrite", "clipboardSanitizedWrite", "audioCapture"]
        await page.call(
            "Browser.grantPermissions", {"permissions": permissions, "browserContextId": context}
        )
        await page.call(
            "Browser.setDownloadBehavior",
            {
                "behavior": "allowAndName",
                "browserContextId": context,
                "downloadPath": str(downloads),
                "eventsEnabled": True,
            },
        )
        for domain in ("Page", "Runtime", "Log", "DOM", "Accessibility"):
            await page.send(f"{domain}.enable")
        await page.resize(1280, 800)
        try:
            yield page
        finally:
            await page.call("Target.disposeBrowserContext", {"browserContextId": context})
            listener.cancel()
