"""The packages that people already use, each as its documentation says, against a real server."""

import asyncio
from pathlib import Path

import pytest

from tests.clients.rig import CASES, Case, NoEnvironment, play, program, serving

pytestmark = [pytest.mark.slow, pytest.mark.io, pytest.mark.model]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_real_client_hears_the_words_of_the_native_wire(case: Case, tmp_path: Path) -> None:
    try:
        program(case)
    except NoEnvironment as reason:
        pytest.skip(str(reason))

    async def run() -> None:
        async with serving() as server:
            outcome = await play(case, server, tmp_path)
            assert outcome.is_same, (outcome.text, outcome.expected)
            assert outcome.text

    asyncio.run(run())
