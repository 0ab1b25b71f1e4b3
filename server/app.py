"""A whole server: workers, manager, gateway; started, announced, ended by a signal.

Does: put the parts together; `serve` for the command, `running` for tests and embedding.
Does not know: arguments, terminals.
"""

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace

from server.config import (
    LOOK_AHEAD_OF_CLASS,
    ConfigError,
    ServerConfig,
    check_look_ahead,
)
from server.gateway import Gateway
from server.http import STREAM_PATH
from server.keeper import Keeper
from server.keys import KeyFileError
from server.manager import Manager
from server.metrics import Metrics
from server.place import Rules
from server.ports import ListenError
from server.store.base import Store, StoreUnavailable
from server.store.choice import open_store
from server.worker.cluster import Cluster
from server.worker.engines import EngineSpec
from server.worker.external import ExternalWorker, Registry
from server.worker.handle import Worker
from server.worker.process import ProcessWorker
from server.worker.registration import SecretError, shared_secret
from server.worker.remote import PlacementError, RemoteWorker
from server.worker.tls import TlsError

logger = logging.getLogger(__name__)

FILES_BESIDE = 256
"""Files that are open beside one for each connection: workers, stores, listeners, logs."""
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class StartError(Exception):
    """The server cannot start; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server is to be found."""

    host: str
    port: int

    @property
    def websocket(self) -> str:
        """URL of the stream."""
        return f"ws://{self._authority}{STREAM_PATH}"

    @property
    def page(self) -> str:
        """URL of the page."""
        return f"http://{self._authority}/"

    @property
    def _authority(self) -> str:
        host = ANY_HOST.get(self.host, self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that listens."""

    addresses: Addresses
    manager: Manager
    gateway: Gateway
    keeper: Keeper


@contextlib.asynccontextmanager
async def running(
    config: ServerConfig, *, launch: Callable[[int], Worker] | None = None
) -> AsyncIterator[Running]:
    """Listen at once, get ready behind (``manager.ready()``); drain and end on the way out."""
    async with contextlib.AsyncExitStack() as stack:
        launch = launch or await _launcher(config, stack)
        yield await stack.enter_async_context(_running(config, launch))


@contextlib.asynccontextmanager
async def _running(config: ServerConfig, launch: Callable[[int], Worker]) -> AsyncIterator[Running]:
    config = within_files(config)
    metrics = Metrics(gateway=config.gateway)
    rules = Rules(
        standby=config.standby,
        overcommit=config.overcommit,
        is_by_cost=config.admission == "cost",
    )
    manager = Manager(launch, config.workers, observer=metrics, rules=rules)
    keeper = Keeper(
        manager,
        store_of(config),
        away_s=config.limits.resume_ms / 1000,
        away_bytes=config.away_mb * 1024**2,
        rest_after_s=config.rest_after_s,
    )
    try:
        gateway = Gateway(config, manager, keeper, metrics)
    except KeyFileError as error:
        await keeper.close()
        raise StartError(str(error)) from error
    try:
        is_one_of_several = config.gateway is not None
        if not is_one_of_several:
            await _listen(gateway)
        keeper.ask_store()  # one that is away is told of: it may come back
        await manager.start()
        port = config.port if is_one_of_several else gateway.port
        yield Running(Addresses(config.host, port), manager, gateway, keeper)
    finally:
        await gateway.stop()
        await manager.close()
        await keeper.close()


def within_files(config: ServerConfig) -> ServerConfig:
    """Raise the limit of open files as far as connections need; take fewer where it stays lower."""
    wanted = config.max_connections + FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted <= soft or soft == resource.RLIM_INFINITY:
        return config
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == wanted:
        return config
    most = max(1, allowed - FILES_BESIDE)
    text = "at most %d connections, for only %d files may be open here: raise `ulimit -n`"
    logger.warning(text, most, allowed)
    return replace(config, max_connections=most)


async def serve(
    config: ServerConfig,
    *,
    on_ready: Callable[[Addresses], None],
    stop: asyncio.Event | None = None,
) -> int:
    """Serve until SIGINT, SIGTERM or ``stop``; raises StartError."""
    with signalled(stop or asyncio.Event()) as over:
        async with running(config) as server:
            if await _ready_before(server.manager, over):
                _check_model(config, server.manager)
                if config.gateway is not None:  # who comes to one of several can be served
                    await _listen(server.gateway)
                on_ready(server.addresses)
                await over.wait()
    return 0


@contextlib.contextmanager
def signalled(over: asyncio.Event) -> Iterator[asyncio.Event]:
    """Have SIGINT and SIGTERM set an event."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    try:
        yield over
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def store_of(config: ServerConfig) -> Store:
    """Open the store that a configuration asks for; raises StartError."""
    limits = config.limits
    try:
        return open_store(config.store, (limits.resume_ms + limits.pause_ms) / 1000)
    except StoreUnavailable as error:
        raise StartError(str(error)) from error


def spec_of(config: ServerConfig) -> EngineSpec:
    """Return the engine that a configuration asks for."""
    return EngineSpec(
        model=config.model,
        decoder_device=config.decoder_device,
        backend=config.backend,
        precision=config.precision,
        lm=config.lm,
        lm_weight=config.lm_weight,
        beam=config.beam,
        slots=config.slots,
        look_ahead=LOOK_AHEAD_OF_CLASS["balanced"]
        if config.look_ahead is None
        else config.look_ahead,
    )


async def _launcher(
    config: ServerConfig, stack: contextlib.AsyncExitStack
) -> Callable[[int], Worker]:
    """Return what starts a worker: here, elsewhere, or somebody else does."""
    spec = spec_of(config)
    if config.external:
        registry = await _registry(config, stack)
        return lambda _: ExternalWorker(registry)
    if not config.cluster:
        devices = config.devices or (spec.device,)
        return lambda number: ProcessWorker(replace(spec, device=devices[number % len(devices)]))
    try:
        cluster = await Cluster.join(config.cluster)
    except PlacementError as error:
        raise StartError(str(error)) from error
    stack.push_async_callback(cluster.leave)
    return lambda _: RemoteWorker(spec, cluster)


async def _registry(config: ServerConfig, stack: contextlib.AsyncExitStack) -> Registry:
    """Listen for workers until the stack ends; raises StartError."""
    try:
        registry = Registry(shared_secret(config.secret_file))
    except SecretError as error:
        raise StartError(str(error)) from error
    host, _, port = config.external.rpartition(":")
    try:
        await registry.open(host.strip("[]") or "127.0.0.1", int(port))
    except (OSError, OverflowError, TlsError) as error:
        why = getattr(error, "strerror", None) or error
        raise StartError(f"cannot wait for workers on {config.external}: {why}") from error
    stack.push_async_callback(registry.close)
    return registry


async def _ready_before(manager: Manager, over: asyncio.Event) -> bool:
    ready = asyncio.create_task(manager.ready())
    ended = asyncio.create_task(over.wait())
    try:
        await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            return False
        try:
            ready.result()
        except RuntimeError as error:
            raise StartError(str(error)) from error
        return True
    finally:
        ready.cancel()
        ended.cancel()


def _check_model(config: ServerConfig, manager: Manager) -> None:
    """Refuse settings that the model cannot have; raises StartError."""
    assert manager.model is not None
    try:
        check_look_ahead(config.look_ahead, manager.model.name, manager.model.look_aheads)
    except ConfigError as error:
        raise StartError(str(error)) from error


async def _listen(gateway: Gateway) -> None:
    try:
        await gateway.start()
    except ListenError as error:
        raise StartError(str(error)) from error
