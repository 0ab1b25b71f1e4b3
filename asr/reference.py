"""NeMo 3.0.0 behind our interface: the oracle of tests, and ``--backend nemo`` for other models.

Does: offline tokens, times and encoder frames; an engine that steps NeMo's own streaming encoder
with exact framing, one stream at a time.
Does not know: our engine. NeMo is imported when a model is opened, not before.
NeMo's streaming itself is not exact at look-ahead 0 (nemo-streaming.md section 5): take our engine
where it knows the model.
"""

import copy
import dataclasses
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from asr.checkpoint import DEFAULT_MODEL
from asr.checkpoint.hub import checkpoint_in, locate
from asr.checkpoint.spec import UnsupportedModel
from asr.features import FeatureStream, FrontEnd
from asr.interface import (
    BadSnapshot,
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
from asr.tokenizer import Tokenizer

CACHED_MEL = 9
"""Mel rows NeMo wants again in front of every chunk but the first; 2 stale frames come of them."""
STALE_FRAMES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """What NeMo says of a whole utterance."""

    features: Tensor
    """Log-mel [frames, bins]."""
    encoded: Tensor
    """Encoder frames [frames, d_model], after the prompt kernel where there is one."""
    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    """Encoder frame of each token."""
    ctc: list[int] | None = None
    ctc_frames: list[int] | None = None


def open_nemo_model(source: str | Path = DEFAULT_MODEL) -> Any:
    """Restore a ``.nemo`` with NeMo's own code (which trusts the file), in eval mode."""
    try:
        from nemo.collections.asr.models import ASRModel
        from nemo.utils import logging
    except ImportError as error:
        raise EngineError("the nemo backend needs the extra: pip install '.[nemo]'") from error
    found = locate(source)
    path = checkpoint_in(found) if found.is_dir() else found
    if path is None or not path.is_file():
        raise UnsupportedModel(f"{found.name} is not a .nemo file, the only form NeMo reads")
    logging.setLevel(logging.ERROR)
    return ASRModel.restore_from(str(path), map_location="cpu").eval()


@torch.inference_mode()
def offline(model: Any, samples: Samples, look_ahead: int, *, prompt: int | None = None) -> Offline:
    """Run a whole utterance through NeMo's offline path."""
    model.encoder.set_default_att_context_size(attention_context(model, look_ahead))
    mel, mel_length = model.preprocessor(
        input_signal=torch.from_numpy(np.ascontiguousarray(samples))[None],
        length=torch.tensor([len(samples)]),
    )
    encoded, length = model.encoder(audio_signal=mel, length=mel_length)
    encoded = _prompted(model, encoded, prompt)
    tokens, frames = list[int](), list[int]()
    if _has_transducer(model):
        hypothesis = model.decoding.rnnt_decoder_predictions_tensor(
            encoded, length, return_hypotheses=True
        )[0]
        tokens = [int(token) for token in hypothesis.y_sequence]
        frames = [int(frame) for frame in hypothesis.timestamp]
    head = ctc_head(model)
    labels = head(encoder_output=encoded)[0, : int(length)].argmax(-1).tolist() if head else None
    ctc = None if labels is None else collapse(labels, len(pieces_of(model)))
    return Offline(
        features=mel[0, :, : int(mel_length)].T,
        encoded=encoded[0, :, : int(length)].T,
        tokens=tokens,
        frames=frames,
        ctc=None if ctc is None else [label for label, _ in ctc],
        ctc_frames=None if ctc is None else [frame for _, frame in ctc],
    )


def collapse(labels: list[int], blank: int, last: int | None = None) -> list[tuple[int, int]]:
    """CTC labels of frames -> (token, frame of its first label)."""
    before = [blank if last is None else last, *labels]
    return [
        (label, frame) for frame, label in enumerate(labels) if label not in (blank, before[frame])
    ]


def pieces_of(model: Any) -> tuple[str, ...]:
    """Vocabulary of a NeMo model, id = index."""
    inner = model.tokenizer.tokenizer
    if hasattr(inner, "id_to_piece"):
        return tuple(inner.id_to_piece(i) for i in range(model.tokenizer.vocab_size))
    return tuple(model.tokenizer.ids_to_tokens(list(range(model.tokenizer.vocab_size))))


def ctc_head(model: Any) -> Any:
    """Return the CTC decoder of a hybrid or pure CTC model, else None."""
    if hasattr(model, "ctc_decoder"):
        return model.ctc_decoder
    return None if _has_transducer(model) else model.decoder


def attention_context(model: Any, look_ahead: int) -> list[int]:
    """Return the [left, right] context of a look-ahead; NeMo itself would take any number."""
    for left, right in model.encoder.att_context_size_all:
        if right == look_ahead:
            return [left, right]
    raise UnsupportedLookAhead(f"the model was not trained for look-ahead {look_ahead}")


def _has_transducer(model: Any) -> bool:
    return hasattr(model, "joint")


def _prompted(model: Any, encoded: Tensor, prompt: int | None) -> Tensor:
    if prompt is None:
        return encoded
    model._inference_prompt_index = prompt  # noqa: SLF001  NeMo's own way to set it by id
    return model._apply_prompt_to_encoded(encoded)  # noqa: SLF001


@dataclass(slots=True)
class _Stream:
    """One stream: pending mel rows, NeMo's caches, decoder state."""

    features: FeatureStream
    look_ahead: int
    prompt: int | None
    mel: Tensor
    caches: list[Tensor]
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
        """Mel rows of the next full step, without the cached ones."""
        return 8 * self.chunk - (7 if self.frames == 0 else 0)

    @property
    def pending(self) -> int:
        """Mel rows that wait (the cached ones in front do not)."""
        return len(self.mel) - (CACHED_MEL if self.frames else 0)

    @property
    def owed(self) -> int:
        """Encoder frames the whole utterance has beyond those produced."""
        length = self.features.frames
        for _ in range(3):
            length = length // 2 + 1
        return length - self.frames

    @property
    def is_ready(self) -> bool:
        """Whether a step would produce something, or end the stream."""
        return self.pending >= self.wanted or self.is_finishing


class NemoEngine:
    """NeMo's cache-aware encoder and greedy decoders as a StreamingEngine (fp32, CPU)."""

    def __init__(self, model: Any, *, name: str = "nemo", slots: int = 16) -> None:
        self._model, self._name, self._slots = model, name, slots
        encoder = model.encoder
        normalize = model.cfg.preprocessor.get("normalize")
        contexts = getattr(encoder, "att_context_size_all", [])
        if normalize not in (None, "NA", "") or not contexts or min(map(min, contexts)) < 0:
            raise UnsupportedModel("the model is not cache-aware, so it cannot stream")
        featurizer = model.preprocessor.featurizer
        self._front = FrontEnd(featurizer.window.float(), featurizer.fb.float().squeeze(0))
        self._tokenizer = Tokenizer(pieces=pieces_of(model))
        self._look_aheads = tuple(dict.fromkeys(right for _, right in contexts))
        defaults = model.cfg.get("model_defaults") or {}
        self._prompts = dict(defaults.get("prompt_dictionary") or {})
        self._streams: dict[int, _Stream] = {}
        self._next = 0
        self.last_step: StepStats | None = None

    @classmethod
    def load(cls, source: str | Path = DEFAULT_MODEL, *, slots: int = 16) -> "NemoEngine":
        """Open a ``.nemo`` file or name."""
        return cls(open_nemo_model(source), name=Path(str(source)).stem, slots=slots)

    @property
    def info(self) -> EngineInfo:
        """What a front end must know."""
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
            decoder="rnnt" if _has_transducer(self._model) else "ctc",
            bytes_per_stream=sum(cache.numel() * cache.element_size() for cache in caches),
            languages=tuple(self._prompts) or ("en",),
            turn_tokens=self._tokenizer.turn_tokens,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's vocabulary."""
        return self._tokenizer

    @property
    def slots_in_use(self) -> int:
        """Streams and forks alive."""
        return len(self._streams)

    def open(self, look_ahead: int, *, language: str | None = None) -> int:
        """Take a slot."""
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

    def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
        """Append samples; ``now`` is not needed: streams go in turn."""
        state = self._get(stream)
        if state.is_finishing:
            raise EngineError("the stream is finished and takes no more audio")
        state.mel = torch.cat([state.mel, state.features.push(np.asarray(samples, np.float32))])

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
        old = CACHED_MEL if stream.frames else 0
        take = stream.mel[: old + min(stream.pending, stream.wanted)]
        encoded, length, *caches = encoder.cache_aware_stream_step(
            processed_signal=take.T[None],
            processed_signal_length=torch.tensor([len(take)]),
            cache_last_channel=stream.caches[0],
            cache_last_time=stream.caches[1],
            cache_last_channel_len=stream.caches[2],
            keep_all_outputs=True,
            drop_extra_pre_encoded=STALE_FRAMES if old else 0,
        )
        frames = min(int(length[0]), stream.owed if stream.is_finishing else stream.chunk)
        encoded = _prompted(self._model, encoded[:, :, :frames], stream.prompt)
        tokens = self._decode(stream, encoded, frames)
        cached = F.pad(take, (0, 0, max(0, CACHED_MEL - len(take)), 0))[-CACHED_MEL:]
        stream.mel, stream.caches = torch.cat([cached, stream.mel[len(take) :]]), caches
        # A step that gives less than it should would be asked for ever again.
        stream.frames += frames if frames else max(1, stream.owed)
        return tokens

    def _decode(self, stream: _Stream, encoded: Tensor, frames: int) -> tuple[Token, ...]:
        if _has_transducer(self._model):
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
