"""``python -m tests.bench.scripted_server serve ...``: ``rivulet serve`` with the scripted engine.

Does: start it; the command itself offers engines that recognise speech only.
Does not know: servers.
"""

import sys

from clients.__main__ import parser_of


def main() -> int:
    """Serve until told to end."""
    args = parser_of("serve").parse_args(sys.argv[2:])
    args.backend = "scripted"
    return int(args.run(args))


if __name__ == "__main__":
    raise SystemExit(main())
