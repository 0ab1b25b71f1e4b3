"""Random requests with a body (files for OpenAI and Deepgram), for long."""

from collections.abc import Callable

import pytest

from tests.fuzz.lengths import MINUTES, play_on
from tests.unit.server.wire import test_files as files


@pytest.mark.slow
@pytest.mark.parametrize(
    "play",
    [
        files.test_any_bytes_are_a_form_or_a_named_error,
        files.test_any_bytes_are_a_head_or_a_named_error,
    ],
)
def test_any_request_is_read_or_refused_for_long(play: Callable[[], None]) -> None:
    play_on(play, minutes=MINUTES / 2)
