"""The one who goes to the store, so that the event loop never waits for a disk or a network.

Does: run store calls on one thread, in the order they were handed in; try again while the store
cannot answer; say when it stops answering, and when it answers again.
Does not know: sessions, what is written.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from server.store.base import Store, StoreUnavailable

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.02, 1.0
_T = TypeVar("_T")


class Clerk:
    """A queue in front of a store. Made and used in one event loop."""

    def __init__(
        self,
        store: Store,
        *,
        give_up_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._give_up_s = give_up_s
        self._clock, self._sleep = clock, sleep
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._is_closing = False
        self.is_away = False
        """Whether the store did not answer the last time that it was asked."""

    def submit(self, act: Callable[[Store], _T]) -> "asyncio.Future[_T]":
        """Run ``act`` behind all others; the future raises StoreUnavailable when it gave up."""
        # from now on, not from its turn: behind others that give up it would wait for all of them
        until = self._clock() + self._give_up_s
        return asyncio.get_running_loop().run_in_executor(self._thread, self._try, act, until)

    async def close(self) -> None:
        """Do what waits, then close the store."""
        self._is_closing = True
        await asyncio.to_thread(self._thread.shutdown)
        self._store.close()

    def _try(self, act: Callable[[Store], _T], until: float) -> _T:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                answer = act(self._store)
            except StoreUnavailable as error:
                self._note_away(str(error))
                if self._is_closing or self._clock() > until:
                    raise
            else:
                self._note_answer()
                return answer
            self._sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)

    def _note_away(self, reason: str) -> None:
        if not self.is_away:
            self.is_away = True
            logger.warning("the store of sessions does not answer", extra={"reason": reason})

    def _note_answer(self) -> None:
        if self.is_away:
            self.is_away = False
            logger.warning("the store of sessions answers again")
