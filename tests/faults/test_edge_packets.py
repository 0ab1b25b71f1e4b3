"""A cut between two network namespaces: the kernel's own TCP, over packets that are lost."""

import pytest

from edge.uplink import Timing
from tests.edge_rig import PACKET, feed, rig, sentences, spoken, words_of
from tests.netlink import NotPermitted, namespaces

pytestmark = [pytest.mark.io, pytest.mark.slow]

TEXTS = sentences(4)
AUDIO = spoken(TEXTS)
HALF = len(AUDIO) // 2 // PACKET * PACKET


async def test_words_are_the_same_after_a_cut_of_packets() -> None:
    try:
        with namespaces() as between:
            async with rig(timing=Timing(), delay_s=0.01, loss=0.005, between=between) as r:
                leg = r.open()
                feed(leg, AUDIO[:HALF])
                await r.until(lambda: leg.leg.acked == HALF)
                r.link.cut()
                await r.until(lambda: not r.uplink.state.is_up)
                feed(leg, AUDIO[HALF:])
                leg.end()
                r.link.heal()
                assert await words_of(leg) == " ".join(TEXTS)
                assert r.uplink.state.connections == 2
                r.link.count()
                assert r.link.up.on_the_link > len(AUDIO)
    except NotPermitted as error:
        pytest.skip(str(error))
