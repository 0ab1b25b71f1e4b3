"""What a leg costs on the link: bytes of all packets both ways, headers of TCP and IP included.

Does: legs of G.711 or Opus at the pace of speech, counted while they speak.
Does not know: the report (tests.bench.edge).
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.node import Caller, NodeLeg
from edge.uplink import Timing
from tests import opus_source
from tests.bench.edge_calls import SAMPLES
from tests.bench.edge_cuts import DELAY_S, Fed, calls_of, fed
from tests.edge_rig import Rig, rig
from tests.netlink import Namespaces

OPUS_BITS_PER_S = 24_000
"""As softphones are set; the encoder itself would take fewer."""
UNIT_S = opus_source.UNIT / opus_source.RATE_HZ
WARM_S = 1.0


@dataclass(slots=True)
class OpusCall:
    """A leg that is fed packets at the pace of speech."""

    leg: NodeLeg
    packets: list[bytes]
    born: float
    at: int = 0

    def feed(self, now: float) -> None:
        """Append what is due."""
        while self.at < int((now - self.born) / UNIT_S):
            self.leg.append(opus_source.UNIT, self.packets[self.at % len(self.packets)])
            self.at += 1


def speech() -> NDArray[np.int16]:
    """The samples one after the other, with the pauses they have."""
    lines = (SAMPLES / "manifest.jsonl").read_text().splitlines()
    read = (
        soundfile.read(SAMPLES / json.loads(line)["audio_filepath"], dtype="int16")
        for line in lines
    )
    return np.concatenate(
        [audio for audio, rate in read if rate == opus_source.RATE_HZ and audio.ndim == 1]
    )


def opus_calls(r: Rig, count: int) -> list[OpusCall]:
    """So many calls, each somewhere else in the same speech."""
    said = opus_source.packets(speech(), bits_per_s=OPUS_BITS_PER_S)
    now = asyncio.get_running_loop().time()
    calls = list[OpusCall]()
    for number in range(count):
        begin = number * len(said) // count
        leg = r.node.open(Caller(encoding="opus", rate=opus_source.RATE_HZ))
        calls.append(OpusCall(leg, said[begin:] + said[:begin], now + number * 0.007))
    return calls


async def backhaul(
    legs: int, seconds: float, between: Namespaces | None, *, is_opus: bool = False
) -> float:
    """Kilobits per second and stream on the link."""
    async with rig(timing=Timing(), delay_s=DELAY_S, slots=legs + 16, between=between) as r:
        calls: Sequence[Fed] = opus_calls(r, legs) if is_opus else calls_of(r, legs, seconds + 2)
        async with fed(calls):
            await asyncio.sleep(WARM_S)
            r.link.count()
            before = r.link.up.on_the_link + r.link.down.on_the_link
            await asyncio.sleep(seconds)
            r.link.count()
            spent = r.link.up.on_the_link + r.link.down.on_the_link - before
    return round(spent * 8 / 1000 / seconds / legs, 1)
