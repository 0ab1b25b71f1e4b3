"""How the two ends of a link over a network show each other that they belong together.

Does: what each end says before the first frame; refuse who does not know the secret (of this one
launch, or of all workers that start themselves), and a build whose frames are others.
Does not know: sockets, time, who dials, Ray, TLS.

Both ends prove the secret over two fresh nonces and neither says it, so an old answer is worth
nothing and a port that pretends to be the other end learns nothing. Both bind their proof to the
encrypted link that they are on (worker.tls): one that was passed on from another link is wrong.
"""

import hashlib
import hmac
import json
import secrets

import msgspec

from server.worker import link

SECRET_BYTES = NONCE_BYTES = PROOF_BYTES = 32
HELLO_BYTES = NONCE_BYTES
ANSWER_BYTES = NONCE_BYTES + 2 * PROOF_BYTES


class HandshakeError(Exception):
    """The other end is not who it should be; the text is one sentence."""


def link_version() -> bytes:
    """Return a digest of all that is said on a link: two builds that differ in it cannot talk."""
    values = [link.Command, link.Report, *link.KINDS]
    schemas, components = msgspec.json.schema_components(values)
    return hashlib.sha256(json.dumps([schemas, components], sort_keys=True).encode()).digest()


class Gateway:
    """The end with the sessions: ``hello``, then ``answered`` with what came."""

    def __init__(self, secret: bytes, binding: bytes) -> None:
        self._secret, self._binding = secret, binding
        self.hello = secrets.token_bytes(NONCE_BYTES)

    def answered(self, answer: bytes) -> bytes:
        """Take the host's answer; return the last word. Raises HandshakeError."""
        nonce, version = answer[:NONCE_BYTES], answer[NONCE_BYTES:-PROOF_BYTES]
        proof = _proof(self._secret, b"host", self.hello, nonce + version, self._binding)
        if not hmac.compare_digest(proof, answer[-PROOF_BYTES:]):
            raise HandshakeError("an engine process did not prove that it is ours")
        if version != link_version():
            raise HandshakeError("an engine process runs another version of rivulet")
        return _proof(self._secret, b"gateway", self.hello, nonce, self._binding)


class Host:
    """The end with the engine: ``answer`` to the hello, then ``check`` of the last word."""

    def __init__(self, secret: bytes, hello: bytes, binding: bytes) -> None:
        self._secret, self._hello, self._binding = secret, hello, binding
        self._nonce = secrets.token_bytes(NONCE_BYTES)

    @property
    def answer(self) -> bytes:
        """What is said to a hello."""
        said = self._nonce + link_version()
        return said + _proof(self._secret, b"host", self._hello, said, self._binding)

    def check(self, last: bytes) -> None:
        """Take the gateway's last word; raises HandshakeError."""
        proof = _proof(self._secret, b"gateway", self._hello, self._nonce, self._binding)
        if not hmac.compare_digest(proof, last):
            raise HandshakeError("a gateway did not prove that it is ours")


def _proof(secret: bytes, *parts: bytes) -> bytes:
    return hmac.digest(secret, b".".join(parts), "sha256")
