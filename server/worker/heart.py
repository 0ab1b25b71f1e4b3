"""Signs of life of an engine process, and the watch that the gateway keeps over them.

Does: beat from a thread of its own however long a step lasts; count the ticks without a beat, and
the beats that one piece of work has lasted.
Does not know: sockets, processes, who is killed for it.

Both sides count their own beats and ticks, no clock: whoever was frozen for an hour and wakes up
has missed one tick, and finds no reason to call the other one dead.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Literal

from server.worker import link

BEAT_S = 0.1
"""Between two beats, and between two ticks of the watch."""
SILENT_TICKS = 8
"""A process that does not beat for so long is frozen."""
WARMING_TICKS = 100
"""The same while it warms up: compiling may keep every other thread waiting."""
STUCK_BEATS = 200
"""One turn of the engine lasts no longer, a replay on a slow device included."""

Hang = Literal["frozen", "stuck"]
WHY: dict[Hang, str] = {
    "frozen": "an engine process gave no sign of life and was killed",
    "stuck": "an engine process did not end a step and was killed",
}


class Activity:
    """What the engine's thread does; read by the heart."""

    def __init__(self) -> None:
        self.now: link.Doing = "waiting"
        self.number = 0
        """Changes with each piece of work."""

    def begin(self, doing: link.Doing) -> None:
        """Note what is done from now on."""
        self.number += 1
        self.now = doing


class Heart:
    """A thread that beats until it is stopped."""

    def __init__(self, activity: Activity, beat: Callable[[link.Pulse], None]) -> None:
        self._activity = activity
        self._beat = beat
        self._number = self._beats = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._is_over.set()
        self._thread.join()

    def pulse(self) -> link.Pulse:
        """Return the next beat."""
        activity = self._activity
        if activity.number != self._number:
            self._number, self._beats = activity.number, 0
        self._beats += 1
        return link.Pulse(activity.now, self._beats)

    def _run(self) -> None:
        while not self._is_over.wait(BEAT_S):
            self._beat(self.pulse())


class Watch:
    """What the gateway knows of one worker's life. A worker that never beats is not watched."""

    def __init__(self) -> None:
        self._last: link.Pulse | None = None
        self._silent = 0

    def heard(self, report: link.Report) -> None:
        """Take any report: whoever reports lives."""
        self._silent = 0
        if isinstance(report, link.Pulse):
            self._last = report

    def tick(self) -> Hang | None:
        """Count a tick of the gateway's own loop; return what is wrong, if anything."""
        if self._last is None:
            return None
        self._silent += 1
        is_warming = self._last.doing == "warming"
        if self._silent > (WARMING_TICKS if is_warming else SILENT_TICKS):
            return "frozen"
        if self._last.doing == "working" and self._last.beats > STUCK_BEATS:
            return "stuck"
        return None


async def every_beat(act: Callable[[], None]) -> None:
    """Act once in a beat of the running loop, for ever."""
    while True:
        await asyncio.sleep(BEAT_S)
        act()
