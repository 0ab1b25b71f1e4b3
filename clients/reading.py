"""JSON files of the user's choice: the wrong one is refused in a sentence.

Does: read a file of any kind up to a size, decode it.
Does not know: what is in it.
"""

import json
from pathlib import Path
from typing import Any

from clients.errors import CommandError

MOST_BYTES = 64 << 20
"""A device has no end."""


def read_json(path: Path, wanted: str) -> Any:
    """Return what a file says. Raises CommandError, which says what file is ``wanted``."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise CommandError(f"{path} has more than {MOST_BYTES >> 20} MiB: give {wanted}")
        return json.loads(text)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    except RecursionError as error:
        raise CommandError(f"{path} is nested too deep: give {wanted}") from error
    except ValueError as error:
        raise CommandError(f"{path} is no JSON: give {wanted}") from error
