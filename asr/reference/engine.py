"""NeMo 3.0.0 as a StreamingEngine: its own streaming encoder, framed exactly, a stream at a time.

Does: mel rows in chunks that NeMo's cache-aware step answers as its offline path would.
Does not know: our engine's encoder and decoders, where models come from.
"""

import copy
import dataclasses
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.checkpoint import DEFAULT_MODEL
from asr.checkpoint.nemo_config import split_look_aheads
from asr.checkpoint.spec import UnsupportedModel
from asr.features import FeatureStream, FrontEnd
from asr.interface import (
    NO_BIASING,
    BadBiasing,
    BadSnapshot,
    Biasing,
    Emission,
    EngineError,
    EngineInfo,
    NoFreeSlot,
    Samples,
    StepStats,
    Token,
    UnknownStream,
    UnsupportedLookAhead,
)
from asr.reference.nemo import (
    attention_context,
    decode_greedily,
    has_transducer,
    open_nemo_model,
    pieces_of,
    prompted,
)
from asr.reference.offline import collapse
from asr.stream import FRESH_ROWS, subsampled
from asr.tokenizer import Tokenizer

CACHED_MEL = 9
"""Mel rows a step wants again in front of its own, so that its first new frame sees 15."""


@dataclass(slots=True)
class _Stream:
    """One stream: pending mel rows, NeMo's caches, decoder state."""

    features: FeatureStream
    look_ahead: int
    prompt: int | None
    mel: Tensor
    """Pending rows, behind ``seen`` rows that a step had already."""
    caches: list[Tensor]
    seen: int = 0
    frames: int = 0
    is_finishing: bool = False
    decoder_state: Any = None
    last_label: int | None = None

    @property
    def chunk(self) -> int:
        """Encoder frames of a step."""
        return self.look_ahead + 1

    @property
    def wanted(self) -> int:
        """Mel rows of the next full step."""
        return 8 * self.chunk - (FRESH_ROWS if self.frames == 0 else 0)

    @property
    def pending(self) -> int:
        """Mel rows that wait."""
        return len(self.mel) - self.seen

    @property
    def owed(self) -> int:
        """Encoder frames the whole utterance has beyond those produced."""
        rows = self.features.frames
        return subsampled(rows)[2] - self.frames if rows else 0

    @property
    def is_ready(self) -> bool:
        """Whether a step would produce something, or end the stream."""
        return self.pending >= self.wanted or self.is_finishing


class NemoEngine:
    """NeMo's cache-aware encoder and greedy decoders as a StreamingEngine (fp32, CPU)."""

    def __init__(self, model: Any, *, name: str = "nemo", slots: int = 16) -> None:
        self._model, self._name, self._slots = model, name, slots
        encoder = model.encoder
        normalize = model.cfg.preprocessor.get("normalize", "per_feature")
        contexts = getattr(encoder, "att_context_size_all", [])
        if normalize not in (None, "NA", "") or not contexts:
            raise UnsupportedModel("the model is not cache-aware, so it cannot stream")
        _, self._look_aheads, _ = split_look_aheads([(left, right) for left, right in contexts])
        featurizer = model.preprocessor.featurizer
        self._front = FrontEnd(featurizer.window.float(), featurizer.fb.float().squeeze(0))
        self._tokenizer = Tokenizer(pieces=pieces_of(model))
        defaults = model.cfg.get("model_defaults") or {}
        self._prompts = dict(defaults.get("prompt_dictionary") or {})
        decode_greedily(model)
        self._streams: dict[int, _Stream] = {}
        self._next = 0
        self.last_step: StepStats | None = None
        self._info = self._summary()

    @classmethod
    def load(cls, source: str | Path = DEFAULT_MODEL, *, slots: int = 16) -> "NemoEngine":
        """Open a path, an embedded model or a hub name."""
        return cls(open_nemo_model(source), name=Path(str(source)).stem, slots=slots)

    @property
    def info(self) -> EngineInfo:
        """What a front end must know."""
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's vocabulary."""
        return self._tokenizer

    @property
    def slots_in_use(self) -> int:
        """Streams and forks alive."""
        return len(self._streams)

    def prepare(self, biasing: Biasing) -> Iterator[None]:
        """Nothing can be favoured here: ``open`` says so."""
        return iter(())

    def open(
        self, look_ahead: int, *, language: str | None = None, biasing: Biasing = NO_BIASING
    ) -> int:
        """Take a slot."""
        _refuse(biasing)
        if look_ahead not in self._look_aheads:
            raise UnsupportedLookAhead(f"look-ahead {look_ahead} is not one of {self._look_aheads}")
        prompt = None
        if self._prompts:
            wanted = language or ("auto" if "auto" in self._prompts else next(iter(self._prompts)))
            if wanted not in self._prompts:
                raise EngineError(f"the model has no prompt for language {wanted!r}")
            prompt = int(self._prompts[wanted])
        caches = list(self._model.encoder.get_initial_cache_state(batch_size=1))
        mel = torch.zeros(0, self._front.bins)
        return self._place(_Stream(FeatureStream(self._front), look_ahead, prompt, mel, caches))

    def bias(self, stream: int, biasing: Biasing) -> None:
        """Nothing can be favoured here."""
        _refuse(biasing)

    def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
        """Append samples; ``now`` is not needed: streams go in turn."""
        state = self._get(stream)
        if state.is_finishing:
            raise EngineError("the stream is finished and takes no more audio")
        samples = np.asarray(samples, np.float32)
        if not np.isfinite(samples).all():
            raise EngineError("samples must be finite numbers")
        state.mel = torch.cat([state.mel, state.features.push(samples)])

    def lacks(self, stream: int) -> int:
        """Nothing is known: each sample is fed as it comes."""
        return 0

    def finish(self, stream: int) -> None:
        """Flush what remains in the next steps."""
        state = self._get(stream)
        if not state.is_finishing:
            state.is_finishing = True
            state.mel = torch.cat([state.mel, state.features.finish()])

    def drop(self, stream: int) -> None:
        """Free the slot."""
        self._streams.pop(stream, None)

    def fork(self, stream: int) -> int:
        """Copy a stream into another slot."""
        state = self._get(stream)
        twin = dataclasses.replace(
            state,
            features=state.features.fork(),
            # NeMo makes new caches in every step, but writes decoder states in place.
            caches=list(state.caches),
            decoder_state=copy.deepcopy(state.decoder_state),
        )
        return self._place(twin)

    def snapshot(self, stream: int) -> bytes:
        """Refuse: NeMo's decoder state has no form but pickle."""
        raise EngineError("the nemo backend takes no snapshots")

    def restore(self, blob: bytes) -> int:
        """Refuse: see ``snapshot``."""
        raise BadSnapshot("the nemo backend takes no snapshots")

    def record(self, stream: int) -> bytes:
        """Refuse: see ``snapshot``."""
        raise EngineError("the nemo backend takes no records")

    def install(self, stream: int, record: bytes) -> None:
        """Refuse: see ``snapshot``."""
        raise BadSnapshot("the nemo backend takes no records")

    def is_ready(self) -> bool:
        """Whether ``step`` would do something."""
        return any(stream.is_ready for stream in self._streams.values())

    def warm(self, look_ahead: int) -> None:
        """Run one chunk of silence."""
        slot = self.open(look_ahead)
        self.feed(slot, np.zeros(1280 * (look_ahead + 2), np.float32))
        self.step()
        self.drop(slot)

    @torch.inference_mode()
    def step(self) -> list[Emission]:
        """Advance the ready stream that was opened or served longest ago."""
        slot = next((slot for slot, stream in self._streams.items() if stream.is_ready), None)
        if slot is None:
            return []
        began, stream = time.perf_counter(), self._streams.pop(slot)
        before = stream.frames
        tokens = self._advance(stream) if stream.owed > 0 else ()
        finished = stream.is_finishing and stream.owed <= 0
        if not finished:
            self._streams[slot] = stream  # last in the order now
        self.last_step = StepStats(
            look_ahead=stream.look_ahead,
            batch=1,
            frames=stream.frames - before,
            seconds=time.perf_counter() - began,
        )
        return [Emission(slot, stream.frames, tokens, finished)]

    def _advance(self, stream: _Stream) -> tuple[Token, ...]:
        encoder = self._model.encoder
        context = attention_context(self._model, stream.look_ahead)
        if encoder.att_context_size != context or encoder.streaming_cfg is None:
            encoder.set_default_att_context_size(context)
        take = stream.mel[: stream.seen + min(stream.pending, stream.wanted)]
        encoded, length, *caches = encoder.cache_aware_stream_step(
            processed_signal=take.T[None],
            processed_signal_length=torch.tensor([len(take)]),
            cache_last_channel=stream.caches[0],
            cache_last_time=stream.caches[1],
            cache_last_channel_len=stream.caches[2],
            keep_all_outputs=True,
            # NeMo always drops 2, which is wrong where fewer rows than CACHED_MEL went before
            # (look-ahead 0, second step) and the reason why its own streaming is inexact there.
            drop_extra_pre_encoded=subsampled(stream.seen)[2] if stream.seen else 0,
        )
        frames = min(int(length[0]), stream.owed if stream.is_finishing else stream.chunk)
        encoded = prompted(self._model, encoded[:, :, :frames], stream.prompt)
        tokens = self._decode(stream, encoded, frames)
        stream.seen = min(CACHED_MEL, len(take))
        stream.mel, stream.caches = stream.mel[len(take) - stream.seen :], caches
        # A step that gives less than it should would be asked for ever again.
        stream.frames += frames if frames else max(1, stream.owed)
        return tokens

    def _decode(self, stream: _Stream, encoded: Tensor, frames: int) -> tuple[Token, ...]:
        if has_transducer(self._model):
            pairs = self._decode_transducer(stream, encoded, frames)
        else:
            labels = self._model.decoder(encoder_output=encoded)[0].argmax(-1).tolist()
            found = collapse(labels, len(self._tokenizer.pieces), stream.last_label)
            pairs = [(label, stream.frames + frame) for label, frame in found]
            stream.last_label = labels[-1] if labels else stream.last_label
        # NeMo's greedy search gives no confidence unless its config asks for one.
        return tuple(Token(label, frame, 1.0) for label, frame in pairs)

    def _decode_transducer(
        self, stream: _Stream, encoded: Tensor, frames: int
    ) -> list[tuple[int, int]]:
        from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis

        # A bare hypothesis with the old state: NeMo's own would hold every token of the stream.
        previous = Hypothesis(score=0.0, y_sequence=torch.zeros(0, dtype=torch.long), timestamp=[])
        previous.dec_state = stream.decoder_state
        hypothesis = self._model.decoding.rnnt_decoder_predictions_tensor(
            encoder_output=encoded,
            encoded_lengths=torch.tensor([frames]),
            return_hypotheses=True,
            partial_hypotheses=None if stream.decoder_state is None else [previous],
        )[0]
        stream.decoder_state = hypothesis.dec_state
        return [
            (int(label), int(frame))
            for label, frame in zip(hypothesis.y_sequence, hypothesis.timestamp, strict=True)
        ]

    def _summary(self) -> EngineInfo:
        digest = hashlib.sha256(self._name.encode())
        for name, tensor in self._model.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {float(tensor.double().sum())}".encode())
        caches = self._model.encoder.get_initial_cache_state(batch_size=1)
        return EngineInfo(
            model=self._name,
            fingerprint=digest.hexdigest(),
            look_aheads=self._look_aheads,
            slots=self._slots,
            precision="fp32",
            decoder="rnnt" if has_transducer(self._model) else "ctc",
            bytes_per_stream=sum(cache.numel() * cache.element_size() for cache in caches),
            languages=tuple(self._prompts) or ("en",),
            turn_tokens=self._tokenizer.turn_tokens,
        )

    def _place(self, stream: _Stream) -> int:
        if len(self._streams) >= self._slots:
            raise NoFreeSlot(f"all {self._slots} slots are taken")
        slot, self._next = self._next, self._next + 1
        self._streams[slot] = stream
        return slot

    def _get(self, stream: int) -> _Stream:
        try:
            return self._streams[stream]
        except KeyError:
            raise UnknownStream(f"stream {stream} is not open") from None


def _refuse(biasing: Biasing) -> None:
    if biasing.phrases:
        raise BadBiasing("this engine cannot boost phrases")
