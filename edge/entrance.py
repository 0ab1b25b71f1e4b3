"""Who may have a stream, at a node or asking a core for one: those whose key the server knows.

Does: a key or token in headers, subprotocols or query -> yes or no.
Does not know: sockets, how many streams a key may have (the server counts those that it serves).
"""

from collections.abc import Mapping

from server.guard import query_of
from server.keys import Keyring
from server.wire.credentials import presented

UNAUTHORIZED = "a key for streams, or a token made with one, is asked for here"


def may_stream(
    keyring: Keyring | None, query: str, headers: Mapping[str, str], *, now_s: float
) -> bool:
    """Whether somebody shows a key for streams; no keyring: nobody need.

    Header names in lower case.
    """
    if keyring is None:
        return True
    shown = presented(headers, query_of(query))
    account = None if shown is None else keyring.account_of(shown, now_s=now_s)
    return account is not None and "stream" in account.scopes
