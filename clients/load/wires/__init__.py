"""Servers' languages behind one interface, so that every server is measured by the same hand.

Does: the table of wires.
Does not know: what the wires say. Not here: Riva, which is gRPC, and Wyoming, whose connection is
one utterance and no stream.
"""

from clients.load.wires.assemblyai import AssemblyWire
from clients.load.wires.base import Wire
from clients.load.wires.deepgram import DeepgramWire, FluxWire
from clients.load.wires.kyutai import KyutaiWire
from clients.load.wires.native import NativeWire
from clients.load.wires.nemo_speech import NemoSpeechWire
from clients.load.wires.realtime import NvidiaWire, OpenAIWire
from clients.load.wires.sherpa import SherpaWire
from clients.load.wires.speechmatics import SpeechmaticsWire
from clients.load.wires.vosk import VoskWire

WIRES: dict[str, type[Wire]] = {
    "rivulet": NativeWire,
    "assemblyai": AssemblyWire,
    "deepgram": DeepgramWire,
    "flux": FluxWire,
    "kyutai": KyutaiWire,
    "nemo-speech": NemoSpeechWire,
    "nvidia": NvidiaWire,
    "openai": OpenAIWire,
    "sherpa-onnx": SherpaWire,
    "speechmatics": SpeechmaticsWire,
    "vosk": VoskWire,
}
