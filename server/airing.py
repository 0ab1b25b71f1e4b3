"""When a session at rest is to come back for a while, to have decoded what it gathered.

Does: say with which claim it returns, from what its ledger keeps.
Does not know: workers, tenants, clocks.
"""

from server.hush import SETTLED_S
from server.ledger import Ledger
from server.lobby import Claim

AIR_S = 10
"""Audio that is not digital silence."""
OVERDUE_S = 60
"""With so much of it a session does not wait behind others any more."""
AIR_SILENCE_S = SETTLED_S + 5
"""Digital silence: once it is decoded the state has settled."""


def claim_of(ledger: Ledger) -> Claim | None:
    """Return why the session should come back now; None: it may go on resting."""
    rate = ledger.opening.rate
    if ledger.unheard > OVERDUE_S * rate:
        return Claim.RETURN
    is_to_settle = not ledger.is_settled and ledger.hushed > AIR_SILENCE_S * rate
    return Claim.AIR if is_to_settle or ledger.unheard > AIR_S * rate else None
