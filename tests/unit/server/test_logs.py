"""Log lines carry their fields."""

import logging

from server.logs import FieldFormatter


def test_a_line_is_a_sentence_and_its_fields() -> None:
    record = logging.makeLogRecord(
        {"msg": "worker gone", "levelname": "ERROR", "name": "server.manager", "worker": 1}
    )
    assert FieldFormatter().format(record).endswith("ERROR server.manager: worker gone worker=1")
