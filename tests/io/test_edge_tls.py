"""Mutual TLS of the uplink: who has the wrong certificate stays outside, by name."""

import asyncio
import dataclasses
import datetime
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.core import Core, CoreConfig, accepting
from edge.peers import NotGiven, PeerDoor, fetch
from edge.tls import Context, Identity, TlsError, context
from edge.uplink import CoreAddress, Timing, Uplink
from edge.wire import Hello, Where
from tests.edge_rig import FAST, PACKET, feed, rig, sentences, spoken, words_of

pytestmark = pytest.mark.io

Make = Callable[..., Identity]
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._sign(
            self.name, self.key.public_key(), NOW + DAY, is_authority=True
        )
        self.path = folder / "ca.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def identity(self, name: str, *, until: datetime.datetime = NOW + DAY) -> Identity:
        """Make a certificate, its key, and name this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
        subject = x509.Name(names)
        signed = self._sign(subject, key.public_key(), until, is_authority=False)
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Identity(certificate=files[0], key=files[1], authority=self.path)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        until: datetime.datetime,
        *,
        is_authority: bool,
    ) -> x509.Certificate:
        names = [x509.DNSName("core.test")]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 2 * DAY)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )


async def dialled(
    core: Core, identity: Identity | None, *, name: str = "n1", token: str = ""
) -> Uplink:
    """Dial until the link is up or has said why not."""
    async with accepting(core) as port:
        tls = None if identity is None else context(identity, is_server=False)
        address = CoreAddress(host="127.0.0.1", port=port, tls=tls, name="core.test")
        timing = Timing(dial_s=5.0, turned_away_s=0.05, first_backoff_s=0.01)
        uplink = Uplink(
            address, lambda epoch: Hello(node=name, epoch=epoch, token=token), timing=timing
        )
        running = asyncio.create_task(uplink.run())
        first = uplink.state.reason
        while not uplink.state.is_up and uplink.state.reason == first:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return uplink


def a_core(identity: Identity, **settings: frozenset[str]) -> Core:
    tls = context(identity, is_server=True)
    return Core(CoreConfig(url="ws://127.0.0.1:1", port=0, tls=tls, **settings))  # type: ignore[arg-type]


async def test_a_node_with_its_certificate_gets_in(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    core = a_core(authority.identity("core.test"))
    uplink = await dialled(core, authority.identity("n1"))
    assert uplink.state.connections == 1 and "n1" in core.registry.nodes


async def test_the_certificate_of_another_node_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    uplink = await dialled(a_core(authority.identity("core.test")), authority.identity("n2"))
    assert "names another node" in uplink.state.reason


async def test_a_certificate_without_a_name_is_no_nodes(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    core = a_core(authority.identity("core.test"))
    uplink = await dialled(core, authority.identity(""))
    assert "names another node" in uplink.state.reason
    assert not core.registry.nodes


async def test_a_certificate_that_expired_or_of_another_authority_stays_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "is_expired", lambda _: False)  # a node whose clock is wrong
    authority = Authority(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").identity("n1")
    mixed = Identity(certificate=stranger.certificate, key=stranger.key, authority=authority.path)
    for identity in (authority.identity("n1", until=NOW - DAY), mixed):
        core = a_core(authority.identity("core.test"))
        uplink = await dialled(core, identity)
        await asyncio.sleep(0)
        assert not core.registry.nodes
        assert uplink.state.reason


async def test_a_core_with_another_name_is_not_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    core = a_core(authority.identity("core.test"))
    identity = authority.identity("n1")
    async with accepting(core) as port:
        address = CoreAddress(
            host="127.0.0.1", port=port, tls=context(identity, is_server=False), name="elsewhere"
        )
        uplink = Uplink(address, lambda epoch: Hello(node="n1", epoch=epoch))
        running = asyncio.create_task(uplink.run())
        while "verify failed" not in uplink.state.reason:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert not core.registry.nodes


async def test_a_join_token_is_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    identity = authority.identity("n1")
    tokens = frozenset({"join me"})
    refused = await dialled(a_core(authority.identity("core.test"), tokens=tokens), identity)
    assert "asks for a join token" in refused.state.reason
    wrong = a_core(authority.identity("core.test"), tokens=tokens)
    refused = await dialled(wrong, identity, token="join you")
    assert "none of this core's" in refused.state.reason
    core = a_core(authority.identity("core.test"), tokens=tokens)
    assert (await dialled(core, identity, token="join me")).state.connections == 1


async def test_a_certificate_that_expires_in_mid_call_costs_no_word(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = context(authority.identity("core.test"), is_server=True)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=4)
    client = context(authority.identity("n1", until=soon), is_server=False)
    texts = sentences(3)
    audio = spoken(texts)
    half = len(audio) // 2 // PACKET * PACKET
    timing = dataclasses.replace(FAST, dial_s=5.0, dead_s=2.0)
    async with rig(tls=(server, client), timing=timing) as r:
        leg = r.open()
        feed(leg, audio[:half])
        await r.until(lambda: leg.leg.acked == half)
        while "expired" not in r.uplink.state.reason.lower():
            if r.uplink.state.is_up:
                r.link.drop_all()
            await asyncio.sleep(0.1)  # time itself is what is waited for
        feed(leg, audio[half:])
        leg.end()
        assert leg.leg.backlog > 0 and not leg.is_over.is_set()
        authority.identity("n1")  # renewed, in the same files
        assert await words_of(leg) == " ".join(texts)


async def test_nodes_among_themselves_read_renewed_certificates_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.tls.RENEW_S", 0.01)
    authority = Authority(tmp_path)
    old = NOW - DAY  # expired meanwhile
    door_tls = context(authority.identity("core.test", until=old), is_server=True)
    asking_tls = context(authority.identity("n2", until=old), is_server=False)
    async with rig("edge") as r:
        door = PeerDoor(r.node, r.moves)
        async with door.open("127.0.0.1", 0, door_tls) as port:
            where = Where(session="s", peer=f"127.0.0.1:{port}", node="core.test")
            with pytest.raises(NotGiven, match="did not answer: SSL"):
                await fetch(r.moves, where, "x", asking_tls)
            authority.identity("core.test")  # renewed, in the same files
            authority.identity("n2")
            said = ""
            async with asyncio.timeout(15):
                while "does not give it" not in said:  # what it says who was let in
                    with pytest.raises(NotGiven) as refused:
                        await fetch(r.moves, where, "x", asking_tls)
                    said = str(refused.value)


def test_an_authority_that_was_renewed_is_trusted_too(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    mine = Authority(tmp_path / "old").identity("n1")
    tls = context(mine, is_server=False)
    assert not tls.refresh()
    new = Authority(tmp_path / "new").identity("n2").authority
    mine.authority.write_bytes(new.read_bytes())
    os.utime(mine.authority, ns=(1, 1))
    assert tls.refresh()
    assert len(tls.get_ca_certs()) == 2


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(TlsError, match="No such file"):
        context(Identity(certificate=missing, key=missing, authority=missing), is_server=False)


async def test_a_node_that_is_turned_away_is_told_of_at_both_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    core = a_core(authority.identity("core.test"), tokens=frozenset({"join me"}))
    await dialled(core, authority.identity("n1"), token="join you")
    told = {r.getMessage() for r in caplog.records if r.levelname == "WARNING"}
    assert {"node refused", "uplink down"} <= told
