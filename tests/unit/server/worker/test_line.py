"""The gateway's end of a link: what many sessions send in one turn of the loop is one write."""

import asyncio
import socket

from server.worker import link
from server.worker.line import Line


async def ends() -> tuple[Line, socket.socket, list[int]]:
    """A line, who is at its other end, and the sizes of what is written."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    sizes, write = list[int](), writer.write

    def counted(data: bytes) -> None:
        sizes.append(len(data))
        write(data)

    writer.write = counted  # type: ignore[method-assign,assignment]
    return Line(reader, writer), theirs, sizes


async def heard(peer: socket.socket, count: int) -> list[link.Command]:
    """So many commands."""
    found, reader = list[link.Command](), link.CommandReader()
    while len(found) < count:
        found += reader.feed(await asyncio.get_running_loop().sock_recv(peer, 1 << 16))
    return found


async def test_what_is_sent_in_one_turn_is_written_at_once_and_in_its_order() -> None:
    line, peer, sizes = await ends()
    with peer:
        commands: list[link.Command] = [link.Audio(n, b"12", 0.0) for n in range(20)]
        for command in commands:
            line.send(command)
        assert (sizes, line.queued_bytes > 20) == ([], True)
        assert await heard(peer, 20) == commands
        assert len(sizes) == 1
        line.send(link.Stop(1))
        assert await heard(peer, 1) == [link.Stop(1)]
        line.close()


async def test_much_is_not_kept_until_the_turn_is_over() -> None:
    line, peer, sizes = await ends()
    with peer:
        for number in range(5):
            line.send(link.Audio(number, bytes(8_000), 0.0))
        assert len(sizes) == 1
        assert len(await heard(peer, 5)) == 5
        line.close()


async def test_what_waits_is_written_before_the_end_and_nothing_behind_it() -> None:
    line, peer, sizes = await ends()
    with peer:
        line.send(link.Quit())
        line.close()
        line.send(link.Quit())
        assert await heard(peer, 1) == [link.Quit()]
        assert await asyncio.get_running_loop().sock_recv(peer, 1 << 16) == b""
        assert len(sizes) == 1


async def test_nothing_is_written_once_it_is_cut() -> None:
    line, peer, sizes = await ends()
    with peer:
        line.send(link.Quit())
        line.cut()
        assert await asyncio.get_running_loop().sock_recv(peer, 1 << 16) == b""
        assert not sizes
