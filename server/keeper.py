"""All sessions of a gateway, and what of them is left in the store for those who come back.

Does: give a session a tenant, and where asked an owner in the store; put sessions away whose client
is gone; bring them back by their token, from here or from the store; forget them in time.
Does not know: sockets, wires, how workers are chosen, what a session says.

Each return issues a new token; the old one works until the client shows that it has the new one,
so that a lost reply locks nobody out.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from asr.events import Partial
from server import ledger
from server.away import Away
from server.config import AWAY_MB
from server.gate import Gate, Outlets, Owner, from_entry
from server.keys import Account
from server.ledger import Happening, Ledger
from server.listener import Listener
from server.lives import Lives
from server.manager import Manager
from server.quota import Quota
from server.session import Session
from server.store import moving
from server.store.base import Kept, Outcome, Snapshot, Store
from server.store.clerk import Clerk
from server.tenant import Tenant
from server.ticket import Ticket
from server.worker import link

logger = logging.getLogger(__name__)

POLL_S = 0.01


class About(msgspec.Struct, frozen=True, array_like=True):
    """What a session is before it says anything."""

    opening: link.Open
    start: bytes
    """The client's ``start`` as JSON."""
    born: float | None = None
    """By the clock on the wall, which machines share."""


class Holder(Listener, Protocol):
    """Who has a session: a connection, or nobody's place keeper."""

    def kept(self, at: int) -> None:
        """Know that all audio before this sample is safe."""
        ...

    def surrender(self) -> Session:
        """Give the session up: another connection has it now."""
        ...

    def fenced(self) -> None:
        """Drop the session and say nothing: another server has it."""
        ...

    def logged(self) -> None:
        """Know that the store has the session: from now on its token brings it back."""
        ...

    def unlogged(self) -> None:
        """Know that nobody can come back to the session: the store has lost it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """A session that a token brought back."""

    ticket: Ticket
    """The new one."""
    finals: list[list[Happening]]
    """The log."""
    partials: list[tuple[int, Partial]]
    session: Session | None
    """As it was left here; None: it has to be made again from what follows."""
    start: bytes
    """How the client began."""
    opening: link.Open
    stopped: dict[int, int]
    """Finals of the channels that had stopped."""
    age_s: float
    """Since it began, wherever."""


class Keeper:
    """Where connections get their sessions served."""

    def __init__(
        self,
        manager: Manager,
        store: Store,
        *,
        away_s: float = 600.0,
        away_bytes: int = AWAY_MB * 1024**2,
        rest_after_s: float = 0.0,
    ) -> None:
        self._manager = manager
        self._store = store
        self._clerk: Clerk | None = None
        self._asking: asyncio.Future[Outcome] | None = None
        """Whether the store is there."""
        self._lives = Lives(manager, rest_after_s)
        self._tenants: dict[int, Tenant] = {}
        self._holders: dict[int, Holder] = {}
        """Of the sessions that can be come back to."""
        self._named: dict[str, int] = {}
        self._away = Away(self.release, seconds=away_s, most_bytes=away_bytes)
        self._quota = Quota()

    @property
    def model(self) -> link.Model | None:
        """What the workers run."""
        return self._manager.model

    async def loaded(self) -> None:
        """Wait until there is a model, or it is certain that there will be none."""
        with contextlib.suppress(RuntimeError):
            await self._manager.ready()

    @property
    def has_room(self) -> bool:
        """Whether a session of one channel could be placed now."""
        return self._manager.has_room

    @property
    def away(self) -> int:
        """Sessions without a client."""
        return len(self._away)

    @property
    def away_bytes(self) -> int:
        """What is kept of them."""
        return self._away.size

    @property
    def resting(self) -> list[int]:
        """Bytes that are kept of each session at rest."""
        return [one.ledger.state_bytes for one in self._tenants.values() if one.is_resting]

    # ---- sessions

    def attach(
        self, command: link.Open, listener: Listener, account: Account | None = None
    ) -> None:
        """Serve a new session; raises OverCapacity, RateLimited."""
        if account is not None:
            self._quota.check(account, command.channels, self._manager.room)
        one = Tenant(Ledger(command), listener, self._lives)
        one.enter(command)
        self._tenants[command.session] = one
        if account is not None:
            for left_behind in self._quota.surplus(account, command.channels):
                self.release(left_behind)
            self._quota.take(command.session, account, command.channels)

    def log(self, session: int, ticket: Ticket, start: bytes, holder: Holder) -> None:
        """Write down what it takes to come back to the session; ``logged`` tells when it is.

        Nothing is said before: what a client learns of its session, it can come back to.
        """
        one = self._tenants.get(session)
        if one is None:
            return
        about = msgspec.msgpack.encode(About(one.ledger.opening, start, time.time()))
        self._own(session, one, Owner(ticket.name, 1), holder).begin(ticket.hash, about)

    def send(self, command: link.Command, session: int) -> None:
        """Hand a command to a session; nothing when it is over."""
        one = self._tenants.get(session)
        if one is not None:
            one.send(command)

    def lagged(self, look_ahead: int, lag_s: float) -> None:
        """Note how late a chunk of a session came."""
        self._manager.lagged(look_ahead, lag_s)

    def release(self, session: int) -> None:
        """Forget a session and free its slots at once. Idempotent."""
        if (one := self._tenants.pop(session, None)) is None:
            return
        self._away.remove(session)
        self._quota.give(session)
        self._holders.pop(session, None)
        gate = one.gate
        one.leave()
        if gate is not None:
            name, epoch = gate.owner.name, gate.owner.known_epoch
            self._named.pop(name, None)
            forgotten = self._clerk_().submit(lambda s: s.forget(name, epoch))
            forgotten.add_done_callback(_read)

    def put_away(self, session: int, holder: Holder) -> None:
        """Keep a session for a client that may come back, without a slot."""
        one = self._tenants.get(session)
        if one is None or one.gate is None:
            self.release(session)
            return
        one.listener = self._holders[session] = holder
        self._quota.set_aside(session)
        one.put_away()
        self._away.add(session, one.ledger.state_bytes)

    async def come_back(
        self, token: str, holder: Holder, number: int, account: Account | None = None
    ) -> Return | None:
        """Give the session of a token to a new holder; None: there is none, or it is spent.

        ``number`` is its name here from now on when it has to be made again.
        """
        ticket = Ticket.read(token)
        if ticket is None:
            return None
        new = Ticket.new(ticket.name)
        kept = await self._clerk_().submit(self._acquiring(ticket, new))
        if kept is None:
            return None
        try:
            about = msgspec.msgpack.decode(kept.about, type=About)
            finals = [from_entry(body) for body in kept.log]
            whole = _whole(kept, about)
        except (msgspec.MsgspecError, link.LinkError):
            logger.error("session of another version", extra={"session": ticket.name})
            return None
        known = self._current(ticket.name, kept.epoch)
        session = None
        if known is None:
            known = number
            self._rebuild(known, whole, Owner(ticket.name, kept.epoch, len(kept.log)), holder)
        else:
            session = self._take_over(known, holder)
        books = self._tenants[known].ledger
        if account is not None:
            self._quota.take(known, account, books.opening.channels)
        return Return(
            ticket=new,
            finals=finals,
            partials=books.shown(),
            session=session,
            start=about.start,
            opening=msgspec.structs.replace(books.opening, at=books.at),
            stopped=books.stopped,
            age_s=0.0 if about.born is None else max(0.0, time.time() - about.born),
        )

    # ---- to and from other servers

    def write_down(self, token: str) -> asyncio.Future[Snapshot] | None:
        """Have a snapshot taken soon; it comes once it is written. None: no such session here."""
        ticket = Ticket.read(token)
        known = self._named.get(ticket.name) if ticket else None
        one = None if known is None else self._tenants.get(known)
        if one is None or one.gate is None:
            return None
        written = one.gate.next_snapshot()
        one.write_down()
        return written

    async def move_out(self, token: str) -> moving.Moved | None:
        """Give a session up and return all of it; None: there is none by this token."""
        ticket = Ticket.read(token)
        if ticket is None:
            return None
        name, secret = ticket.name, ticket.secret
        moved = await self._clerk_().submit(moving.taking_out(name, secret))
        known = self._named.get(name)
        if moved is not None and known is not None:
            self._fenced(known)
        return moved

    async def move_in(self, moved: moving.Moved) -> bool:
        """Take a session that another server gave up: its token brings it back here."""
        return await self._clerk_().submit(lambda s: moving.put_in(s, moved))

    def resume(self, session: int) -> None:
        """Serve a session again that came back."""
        if one := self._tenants.get(session):
            one.come_back()

    def confirm(self, session: int) -> None:
        """Note that the client has its new token: the one before is spent."""
        one = self._tenants.get(session)
        if one is not None and one.gate is not None:
            name, epoch = one.gate.owner.name, one.gate.owner.known_epoch
            confirmed = self._clerk_().submit(lambda s: s.confirm(name, epoch))
            confirmed.add_done_callback(_read)

    def is_served(self, session: int) -> bool:
        """Whether a worker has the session."""
        return (one := self._tenants.get(session)) is not None and one.is_served

    @property
    def is_lasting(self) -> bool:
        """Whether sessions can be come back to when this server was started again."""
        return self._store.is_lasting

    def ask_store(self) -> bool:
        """Whether the store answered when it was last asked; ask one that did not again."""
        clerk = self._clerk_()
        if self._asking is None or (clerk.is_away and self._asking.done()):
            self._asking = clerk.submit(lambda s: s.confirm("", 0))  # of nobody: it changes nothing
            self._asking.add_done_callback(_read)
        return not clerk.is_away

    async def settled(self, seconds: float) -> None:
        """Wait until the workers have answered finalizes and put sessions away, not for ever."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            if all(tenant.is_settled for tenant in self._tenants.values()):
                return
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """Write what waits and close the store."""
        self._away.clear()
        if self._clerk is not None:
            await self._clerk.close()
        else:
            self._store.close()

    # ---- inside

    def _clerk_(self) -> Clerk:
        if self._clerk is None:  # it belongs to the running loop
            self._clerk = Clerk(self._store)
        return self._clerk

    def _acquiring(self, ticket: Ticket, new: Ticket) -> Callable[[Store], Kept | None]:
        """Return the call that makes us the owner, or the newer owner of what is ours."""
        known = self._named.get(ticket.name)
        one = self._tenants.get(known) if known is not None else None
        gate = one.gate if one else None

        def acquire(store: Store) -> Kept | None:
            kept = store.acquire(ticket.name, ticket.hash, new.hash)
            if kept is not None and gate is not None and kept.epoch == gate.owner.epoch + 1:
                gate.owner.epoch = kept.epoch  # before the next write, which waits for this thread
            return kept

        return acquire

    def _current(self, name: str, epoch: int) -> int | None:
        """Return the session as it is here, unless another server had it meanwhile."""
        known = self._named.get(name)
        gate = self._tenants[known].gate if known is not None else None
        if known is None or gate is None:
            return None
        if epoch > gate.owner.epoch + 1:
            self._fenced(known)  # what we have of it is old
            return None
        owner = gate.owner
        owner.epoch = max(owner.epoch, epoch)  # of two that come at once the later one
        owner.known_epoch = max(owner.known_epoch, epoch)
        return known

    def _own(self, session: int, one: Tenant, owner: Owner, holder: Holder) -> Gate:
        self._holders[session] = holder
        outlets = Outlets(
            begun=lambda: self._holders[session].logged(),
            passed=one.say,
            kept=lambda at: self._kept(session, at),
            refused=lambda: self._fenced(session),
            gone=lambda: self._gone(session),
            broken=lambda: self._broken(session),
        )
        one.gate = gate = Gate(self._clerk_(), owner, outlets)
        self._named[owner.name] = session
        return gate

    def _kept(self, session: int, at: int) -> None:
        self._holders[session].kept(at)
        self._away.weigh(session, self._tenants[session].ledger.state_bytes)

    def _fenced(self, session: int) -> None:
        """Let go of a session that another server has."""
        holder = self._drop(session)
        if holder is not None:
            holder.fenced()

    def _gone(self, session: int) -> None:
        """Go on with a session that the store has lost; its token brings nobody back."""
        one = self._tenants.get(session)
        if one is None or one.gate is None:
            return
        name, epoch = one.gate.owner.name, one.gate.owner.known_epoch
        logger.warning("the store has lost a session", extra={"session": name})
        self._named.pop(name, None)
        one.gate = None
        forgotten = self._clerk_().submit(lambda s: s.forget(name, epoch))  # what is left of it
        forgotten.add_done_callback(_read)
        self._holders.pop(session).unlogged()

    def _broken(self, session: int) -> None:
        holder = self._drop(session)
        if holder is not None:
            holder.failed("internal", "the store of sessions does not answer")

    def _drop(self, session: int) -> Holder | None:
        """Forget a session here and leave it in the store."""
        one = self._tenants.pop(session, None)
        if one is None:
            return None
        self._away.remove(session)
        self._quota.give(session)
        if one.gate is not None:
            self._named.pop(one.gate.owner.name, None)
        one.leave()
        return self._holders.pop(session, None)

    def _take_over(self, number: int, holder: Holder) -> Session:
        self._away.remove(number)
        old, self._holders[number] = self._holders[number], holder
        self._tenants[number].listener = holder
        return old.surrender()

    def _rebuild(self, number: int, whole: ledger.Kept, owner: Owner, holder: Holder) -> None:
        books = Ledger(whole.opening, whole.finals, hushed=whole.hushed)
        books.deaths, books.reached = whole.deaths, whole.reached
        one = Tenant(books, holder, self._lives, is_begun=True)
        self._tenants[number] = one
        self._own(number, one, owner, holder)


def _whole(kept: Kept, about: About) -> ledger.Kept:
    """Put together what the store has of a session; raises MsgspecError."""
    snapshot, record = None, kept.record
    if kept.snapshot is not None:
        snapshot = kept.snapshot.blob
        if kept.snapshot.entries == len(kept.log):
            record = None  # it is older than the snapshot, which has all of it
    return ledger.kept_from(record, snapshot) or ledger.Kept(about.opening, ())


def _read(done: "asyncio.Future[Outcome]") -> None:
    """Read the outcome of a write that nobody waits for."""
    if not done.cancelled():
        done.exception()
