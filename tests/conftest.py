"""Run ``async def test_*`` with the standard library only; have logs heard in each test."""

import asyncio
import inspect
import logging

import pytest


@pytest.fixture(autouse=True)
def _logs_are_heard() -> None:
    """NeMo, once another test has loaded it, has quietened every handler, those of caplog too."""
    for handler in logging.root.handlers:
        handler.setLevel(logging.NOTSET)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test in a fresh loop, 20 s at most."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    call = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    asyncio.run(asyncio.wait_for(call, timeout=20))
    return True
