"""The host's end of a link over a real socket pair."""

import socket

import pytest

from server.worker import link
from server.worker.loop import MailboxClosed
from server.worker.mailbox import SocketMailbox

SNAPSHOT = bytes(range(256)) * 12_000
"""3 MB: many times what a socket holds."""


def received(peer: socket.socket, count: int) -> list[link.Report]:
    peer.settimeout(10.0)
    reader, found = link.ReportReader(), list[link.Report]()
    while len(found) < count:
        found += reader.feed(peer.recv(65_536))
    return found


def test_a_snapshot_larger_than_the_socket_leaves_while_the_host_computes() -> None:
    ours, theirs = socket.socketpair()
    with SocketMailbox(ours) as mailbox, theirs:
        mailbox.send(link.Saved(1, 5, (SNAPSHOT,)))
        mailbox.send(link.Opened(2))
        # no further call: the host is in a step now
        assert received(theirs, 2) == [link.Saved(1, 5, (SNAPSHOT,)), link.Opened(2)]


def test_a_session_larger_than_the_socket_arrives_while_the_host_computes() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10.0)
    moved = link.Audio(1, SNAPSHOT, 0.0)
    with SocketMailbox(ours) as mailbox, theirs:
        theirs.sendall(link.frame(link.Checkpoint(1)))
        assert mailbox.receive(may_wait=True) == [link.Checkpoint(1)]
        # the host is in a step now
        theirs.sendall(link.frame(moved))
        theirs.sendall(link.frame(link.Stop(2)))
        found = list[link.Command]()
        while len(found) < 2:
            found += mailbox.receive(may_wait=True)
        assert found == [moved, link.Stop(2)]
        theirs.close()
        with pytest.raises(MailboxClosed):
            mailbox.receive(may_wait=False)


def test_a_sign_of_life_waits_for_no_older_report() -> None:
    ours, theirs = socket.socketpair()
    with SocketMailbox(ours) as mailbox, theirs:
        mailbox.send(link.Saved(1, 5, (SNAPSHOT,)))
        mailbox.beat(link.Pulse("working", 1))
        mailbox.send(link.Opened(2))
        assert [type(report) for report in received(theirs, 2)] == [link.Saved, link.Opened]
        mailbox.beat(link.Pulse("working", 2))
        assert received(theirs, 1) == [link.Pulse("working", 2)]


def test_a_gateway_that_went_away_ends_the_host_at_its_next_read() -> None:
    ours, theirs = socket.socketpair()
    with SocketMailbox(ours) as mailbox:
        theirs.close()
        with pytest.raises(MailboxClosed):
            mailbox.receive(may_wait=True)


def test_the_last_report_is_written_before_the_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with SocketMailbox(ours) as mailbox:
            mailbox.give_up("no such model")
        assert received(theirs, 1) == [link.Unfit("no such model")]
