"""Requests signed as Genesys signs them, by the published description."""

import base64
import hmac
from collections.abc import Mapping

from edge.adapters.signature import SIGNED


def signed(
    target: str,
    headers: Mapping[str, str],
    secret: str,
    parameters: str,
    names: tuple[str, ...] = SIGNED,
) -> dict[str, str]:
    """Return the two headers of a signature."""
    value = {**headers, "@request-target": target, "@authority": headers["host"]}
    wish = f"({' '.join(f'{chr(34)}{name}{chr(34)}' for name in names)}){parameters}"
    base = "".join(f'"{name}": {value[name]}\n' for name in names) + f'"@signature-params": {wish}'
    code = base64.b64encode(hmac.digest(base64.b64decode(secret), base.encode(), "sha256")).decode()
    return {"signature": f"sig1=:{code}:", "signature-input": f"sig1={wish}"}
