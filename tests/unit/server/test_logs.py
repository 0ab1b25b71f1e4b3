"""Log lines carry their fields."""

import logging

from server.logs import FieldFormatter


def test_a_line_is_a_sentence_and_its_fields() -> None:
    record = logging.makeLogRecord(
        {"msg": "worker gone", "levelname": "ERROR", "name": "server.manager", "worker": 1}
    )
    assert FieldFormatter().format(record).endswith("ERROR server.manager: worker gone worker=1")


def test_what_a_process_always_says_comes_first() -> None:
    record = logging.makeLogRecord({"msg": "worker gone", "levelname": "ERROR", "worker": 1})
    line = FieldFormatter(gateway=2).format(record)
    assert line.endswith("worker gone gateway=2 worker=1")
