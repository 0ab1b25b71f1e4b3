"""The packages that people already use, each as its documentation says, against a real server."""

import asyncio
from pathlib import Path

import pytest

from tests.clients.rig import CASES, Case, NoEnvironment, environment, play, serving

pytestmark = [pytest.mark.slow, pytest.mark.io, pytest.mark.model]


@pytest.fixture(scope="session")
def python() -> Path:
    try:
        return environment()
    except NoEnvironment as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_real_client_hears_the_words_of_the_native_wire(
    case: Case, python: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with serving() as server:
            outcome = await play(case, server, python, tmp_path)
            assert outcome.text.split() == outcome.expected.split()
            assert outcome.text

    asyncio.run(run())
