"""One room that speaks LiveKit's protocol, for its real SDK: ``python livekit_room.py``.

A stand-in: LiveKit's own server is no package. Signals are LiveKit's messages, sound goes by WebRTC
(aiortc) as Opus. Only listeners join; who speaks is said on standard input, one JSON object a line:
``{"do": "publish", "who", "sid", "file"}`` (16 kHz PCM), ``unpublish``, ``mute``, ``leave``,
``close``. Standard output: the port, then a line for what happened.
"""

import asyncio
import json
import sys
from fractions import Fraction
from pathlib import Path

import aioice.ice
import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import candidate_from_sdp
from livekit.protocol import models, rtc
from websockets.asyncio.server import serve

RATE, FRAME = 48_000, 960
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


def say(*words):
    print(*words, flush=True)


class Recording(MediaStreamTrack):
    """A file at the pace of speech; behind its end, or while muted, nothing is sent."""

    kind = "audio"

    def __init__(self, sid, path):
        super().__init__()
        self._id = sid
        pcm = np.frombuffer(Path(path).read_bytes(), "<i2")
        at = np.arange(len(pcm) * 3) / 3
        self.samples = np.interp(at, np.arange(len(pcm)), pcm).astype("<i2")
        self.at, self.due = 0, None

    async def recv(self):
        clock = asyncio.get_running_loop().time
        if self.due is None:
            self.due = clock()
        piece = self.samples[self.at : self.at + FRAME]
        if not len(piece):
            say("said", self._id)
            await asyncio.Event().wait()
        self.due += FRAME / RATE
        await asyncio.sleep(max(0.0, self.due - clock()))
        piece = np.pad(piece, (0, FRAME - len(piece)))
        frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self.at, Fraction(1, RATE)
        self.at += FRAME
        return frame


class Listener:
    """One client of the SDK."""

    def __init__(self, socket, room):
        self.socket, self.room = socket, room
        bundle = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        self.peer = RTCPeerConnection(bundle)
        self.peer.createDataChannel("_reliable")
        self.sids, self.wanted, self.waiting = [], [], asyncio.Event()
        self.free = asyncio.Event()
        self.early = []

    async def send(self, **message):
        await self.socket.send(rtc.SignalResponse(**message).SerializeToString())

    async def offers(self):
        """One offer after another: the first without sound, then with each track asked for."""
        while True:
            await self.peer.setLocalDescription(await self.peer.createOffer())
            text = self.peer.localDescription.sdp
            self.free.clear()
            await self.send(offer=rtc.SessionDescription(type="offer", sdp=text))
            await self.free.wait()
            await self.waiting.wait()
            self.waiting.clear()
            while self.wanted:
                sid = self.wanted.pop()
                who, path = self.room.tracks[sid]
                sender = self.peer.addTrack(Recording(sid, path))
                sender._stream_id = f"PA_{who}|{sid}"
                say("subscribed", sid)

    async def hear(self, request):
        match request.WhichOneof("message"):
            case "answer":
                answer = RTCSessionDescription(request.answer.sdp, "answer")
                await self.peer.setRemoteDescription(answer)
                for candidate in self.early:
                    await self.peer.addIceCandidate(candidate)
                self.early.clear()
                self.free.set()
            case "trickle" if request.trickle.target == rtc.SignalTarget.SUBSCRIBER:
                found = json.loads(request.trickle.candidateInit)
                if text := found.get("candidate"):
                    candidate = candidate_from_sdp(text.partition(":")[2])
                    candidate.sdpMid = found.get("sdpMid") or "0"
                    if self.peer.remoteDescription:
                        await self.peer.addIceCandidate(candidate)
                    else:
                        self.early.append(candidate)
            case "subscription" if request.subscription.subscribe:
                sids = {*request.subscription.track_sids}
                sids |= {s for p in request.subscription.participant_tracks for s in p.track_sids}
                self.wanted += sorted(sids - {*self.sids})
                self.sids += sids
                self.waiting.set()
            case "ping_req":
                await self.send(pong_resp=rtc.Pong(last_ping_timestamp=request.ping_req.timestamp))
            case "leave":
                await self.socket.close()


class Room:
    def __init__(self):
        self.people, self.tracks, self.listeners = {}, {}, set()

    async def join(self, socket):
        if not socket.request.path.startswith("/rtc"):
            return
        listener = Listener(socket, self)
        self.listeners.add(listener)
        me = models.ParticipantInfo(sid="PA_me", identity="me", state="ACTIVE")
        await listener.send(
            join=rtc.JoinResponse(
                room=models.Room(sid="RM_1", name="standup"),
                participant=me,
                other_participants=list(self.people.values()),
                subscriber_primary=True,
                ping_timeout=30,
                ping_interval=10,
                server_info=models.ServerInfo(version="1.9.0", protocol=16),
            )
        )
        offering = asyncio.create_task(listener.offers())
        say("joined")
        try:
            async for data in socket:
                request = rtc.SignalRequest.FromString(data)
                print(request.WhichOneof("message"), file=sys.stderr)
                await listener.hear(request)
        finally:
            self.listeners.discard(listener)
            offering.cancel()
            await listener.peer.close()
            say("left")

    async def tell(self, **message):
        for listener in list(self.listeners):
            await listener.send(**message)

    async def do(self, order):
        who, sid = order.get("who", ""), order.get("sid", "")
        person = self.people.setdefault(
            who, models.ParticipantInfo(sid=f"PA_{who}", identity=who, state="ACTIVE")
        )
        match order["do"]:
            case "publish":
                self.tracks[sid] = who, order["file"]
                person.tracks.add(sid=sid, type="AUDIO", source="MICROPHONE", name="mic")
            case "unpublish":
                kept = [track for track in person.tracks if track.sid != sid]
                del person.tracks[:]
                person.tracks.extend(kept)
            case "mute" | "unmute" as wish:
                for track in person.tracks:
                    track.muted = wish == "mute"
            case "leave":
                self.people.pop(who)
                person.state = models.ParticipantInfo.State.DISCONNECTED
            case "close":
                leave = rtc.LeaveRequest(reason="ROOM_DELETED", action="DISCONNECT")
                return await self.tell(leave=leave)
        person.version += 1
        return await self.tell(update=rtc.ParticipantUpdate(participants=[person]))


def answer_get(connection, request):
    """What the SDK asks without a socket when one failed."""
    if "validate" in request.path:
        return connection.respond(200, "success")
    if request.path.startswith("/rtc/v1"):
        return connection.respond(404, "")
    return None


async def main():
    room = Room()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with serve(room.join, "127.0.0.1", 0, process_request=answer_get) as server:
        say(server.sockets[0].getsockname()[1])
        while line := await reader.readline():
            await room.do(json.loads(line))


asyncio.run(main())
