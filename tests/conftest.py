"""Run ``async def test_*`` with the standard library only; our loggers speak in each test."""

import asyncio
import inspect
import logging

import pytest

OURS = ("asr", "server", "clients", "edge")


@pytest.fixture(autouse=True)
def _loggers_speak() -> None:
    """Undo what libraries that other tests load do to the loggers of the whole process."""
    logging.disable(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.split(".")[0] in OURS:
            logger.disabled, logger.propagate = False, True
    for name in OURS:
        logging.getLogger(name).setLevel(logging.WARNING)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test in a fresh loop, 20 s at most."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    call = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    asyncio.run(asyncio.wait_for(call, timeout=20))
    return True
