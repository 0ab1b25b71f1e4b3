"""How log lines look: a fixed sentence and its fields, never spoken text.

Does: one line a record on stderr, ``extra`` fields as name=value.
Does not know: what is logged.
"""

import logging

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """``12:00:01 WARNING server.manager: worker gone worker=1 lost=3``."""

    def __init__(self, **always: object) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with its fields."""
        own = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        fields = self._always | own
        return " ".join([super().format(record), *(f"{k}={v}" for k, v in fields.items())])


def configure(**always: object) -> None:
    """Send warnings and worse to stderr, each with the fields that this process always has."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter(**always))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
