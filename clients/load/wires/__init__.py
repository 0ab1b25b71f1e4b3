"""Servers' languages behind one interface, so that every server is measured by the same hand.

Does: the table of wires.
Does not know: what the wires say.
"""

from clients.load.wires.base import Wire
from clients.load.wires.native import NativeWire
from clients.load.wires.nemo_speech import NemoSpeechWire
from clients.load.wires.sherpa import SherpaWire

WIRES: dict[str, type[Wire]] = {
    "rivulet": NativeWire,
    "sherpa-onnx": SherpaWire,
    "nemo-speech": NemoSpeechWire,
}
