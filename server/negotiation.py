"""What a client asked for and what it gets from this model: pure functions.

Does: ``start`` + model -> Agreement or a named error; changes by ``configure``.
Does not know: workers, sockets, clocks, sessions in progress.
"""

from dataclasses import dataclass, replace
from typing import Any

from asr.audio import Resampler
from asr.decoder.spelling import writings
from asr.interface import FRAME_MS, heard_samples
from server.config import LOOK_AHEAD_OF_CLASS, ServerConfig
from server.wire.errors import BadRequest, UnsupportedLanguage
from server.wire.messages import (
    AudioFormat,
    Boosts,
    Chunk,
    Chunks,
    Configure,
    Endpointing,
    Language,
    LatencyClass,
    PartialsMode,
    Readable,
    Start,
)
from server.worker import link

_CLASS_OF_LOOK_AHEAD = {frames: name for name, frames in LOOK_AHEAD_OF_CLASS.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What holds for a session; the wire's ``applied``."""

    audio: AudioFormat
    look_ahead: int
    language: Language | None
    """As the model names it; None: its only or default one."""
    partials: PartialsMode
    words: bool
    endpointing: Endpointing
    boost: link.Phrases = ()
    is_flexible: bool = False
    """Whether a longer chunk will do."""
    readable: Readable | None = None
    """Rules for the text; None: as the model writes it."""

    @property
    def chunk_ms(self) -> int:
        """Audio per decoding step."""
        return chunk_ms(self.look_ahead)

    @property
    def chunks(self) -> Chunks:
        """Which audio decodes at once, told to a client that sends no more often."""
        resampler = Resampler(self.audio.rate)
        first = resampler.lacks(heard_samples(self.look_ahead + 1))
        return Chunks(first=first, beyond=resampler.behind)

    def to_wire(self) -> dict[str, Any]:
        """Return the object that ``ready`` and ``configured`` show."""
        rules = self.endpointing
        readable = {} if self.readable is None else {"readable": _said(self.readable)}
        return readable | {
            "latency": class_of(self.look_ahead),
            "chunk_ms": self.chunk_ms,
            "look_ahead": self.look_ahead,
            "language": self.language or "auto",
            "partials": self.partials,
            "words": self.words,
            "endpointing": {
                "mode": rules.mode,
                "silence_ms": rules.silence_ms,
                "hesitation_ms": rules.hesitation_ms,
                "eager_ms": rules.eager_ms,
                "max_turn_ms": rules.max_turn_ms,
            },
        }

    def to_open(self, number: int) -> link.Open:
        """Return the command that opens the session in a worker."""
        return link.Open(
            session=number,
            encoding=self.audio.encoding,
            rate=self.audio.rate,
            channels=self.audio.channels,
            look_ahead=self.look_ahead,
            language=self.language,
            turns=to_turns(self.endpointing),
            partials=self.partials,
            words=self.words,
            boost=self.boost,
        )


def agree(start: Start, model: link.Model, config: ServerConfig) -> Agreement:
    """Return what the client gets; raises BadRequest, UnsupportedLanguage."""
    return Agreement(
        audio=start.audio,
        look_ahead=_look_ahead(start.latency, model, config),
        language=_language(start.language, model),
        partials=start.partials or "all",
        words=start.words,
        endpointing=_checked(start.endpointing or Endpointing()),
        boost=_boost(start.boost or (), model) if model.alphabet else (),
        is_flexible=start.flexible,
        readable=_readable(start.readable, model),
    )


def taken_up(
    start: Start, model: link.Model, config: ServerConfig, opening: link.Open
) -> Agreement:
    """Return what held for a session that began elsewhere and may have been changed since."""
    rules = opening.turns
    return replace(
        agree(start, model, config),
        look_ahead=opening.look_ahead,
        partials=opening.partials,
        boost=opening.boost,
        endpointing=Endpointing(
            mode=rules.mode,
            silence_ms=rules.silence_ms,
            hesitation_ms=rules.hesitation_ms,
            eager_ms=rules.eager_ms,
            max_turn_ms=rules.max_turn_ms,
        ),
    )


def change(agreement: Agreement, wish: Configure, model: link.Model) -> Agreement:
    """Return what holds after ``configure``; raises a non-fatal error."""
    wanted = _language(wish.language, model)
    if wanted not in (None, agreement.language) and len(model.languages) > 1:
        raise UnsupportedLanguage(
            "the language of a running session cannot change", is_fatal=False, param="language"
        )
    rules = wish.endpointing
    return replace(
        agreement,
        partials=wish.partials or agreement.partials,
        endpointing=agreement.endpointing if rules is None else _checked(rules, is_fatal=False),
        boost=agreement.boost if wish.boost is None else _boost(wish.boost, model, is_fatal=False),
    )


def slower(agreement: Agreement, model: link.Model) -> Agreement | None:
    """Return the same with the next longer chunk, for a client that bears one; None: there is none.

    Longer chunks cost less: more streams share the fixed part of a step.
    """
    longer = [frames for frames in model.look_aheads if frames > agreement.look_ahead]
    if not agreement.is_flexible or not longer:
        return None
    return replace(agreement, look_ahead=min(longer))


def chunk_ms(look_ahead: int) -> int:
    """Audio per decoding step of a look-ahead."""
    return (look_ahead + 1) * FRAME_MS


def class_of(look_ahead: int) -> str:
    """Name of a latency class, or its chunk where it has no name."""
    return _CLASS_OF_LOOK_AHEAD.get(look_ahead) or f"{chunk_ms(look_ahead)}ms"


def to_turns(rules: Endpointing) -> link.Turns:
    """Return endpointing rules as the link carries them."""
    return link.Turns(
        mode=rules.mode,
        silence_ms=rules.silence_ms,
        hesitation_ms=rules.hesitation_ms,
        eager_ms=rules.eager_ms,
        max_turn_ms=rules.max_turn_ms,
    )


def nearest(wanted: int, model: link.Model) -> int:
    """Return the model's largest look-ahead that is not slower, else its fastest."""
    fitting = [frames for frames in model.look_aheads if frames <= wanted]
    return max(fitting) if fitting else min(model.look_aheads)


def _look_ahead(wish: LatencyClass | Chunk | None, model: link.Model, config: ServerConfig) -> int:
    if isinstance(wish, Chunk):
        for frames in model.look_aheads:
            if chunk_ms(frames) == wish.chunk_ms:
                return frames
        known = ", ".join(str(chunk_ms(frames)) for frames in sorted(model.look_aheads))
        raise BadRequest(f"this model has chunk_ms {known}", param="latency.chunk_ms")
    if wish is None and config.look_ahead is not None:
        return nearest(config.look_ahead, model)
    return nearest(LOOK_AHEAD_OF_CLASS[wish or "balanced"], model)


def _language(wish: str | None, model: link.Model) -> str | None:
    if wish is None or wish.lower() == "auto":
        return None
    by_tag = {tag.lower(): tag for tag in model.languages}
    if tag := by_tag.get(wish.lower()):
        return tag
    primary = wish.lower().split("-")[0]
    for lower, tag in by_tag.items():
        if lower.split("-")[0] == primary:
            return tag
    known = ", ".join(model.languages)
    raise UnsupportedLanguage(f"this model speaks {known}", param="language")


def _checked(rules: Endpointing, *, is_fatal: bool = True) -> Endpointing:
    if rules.eager_ms is not None and rules.eager_ms >= rules.silence_ms:
        raise BadRequest(
            "eager_ms must be less than silence_ms",
            is_fatal=is_fatal,
            param="endpointing.eager_ms",
        )
    return rules


def _readable(wish: Readable | None, model: link.Model) -> Readable | None:
    """Return the rules that are wanted and that the model leaves to us; None: none are."""
    if wish is None:
        return None
    letters = model.alphabet
    is_english = all(tag.lower().startswith("en") for tag in model.languages)
    rules = Readable(
        capitals=wish.capitals and not any(c.isupper() for c in letters),
        punctuation=wish.punctuation and "." not in letters,
        numbers=wish.numbers and is_english and not any(c.isdigit() for c in letters),
    )
    return rules if any(_said(rules).values()) else None


def _said(rules: Readable) -> dict[str, bool]:
    return {name: getattr(rules, name) for name in rules.__struct_fields__}


def writable(wish: Boosts, model: link.Model) -> Boosts:
    """Return the phrases that a model can write, for clients that know nothing of its letters."""
    if not model.alphabet:
        return wish
    return tuple(phrase for phrase in wish if writings(phrase.phrase, model.alphabet))


def _boost(wish: Boosts, model: link.Model, *, is_fatal: bool = True) -> link.Phrases:
    if wish and not model.alphabet:
        raise BadRequest("this engine cannot boost phrases", is_fatal=is_fatal, param="boost")
    for number, phrase in enumerate(wish):
        if not writings(phrase.phrase, model.alphabet):
            where = f"boost[{number}].phrase"
            why = "is empty or has a letter or digit that this model does not write"
            raise BadRequest(f"{where} {why}", is_fatal=is_fatal, param=where)
    return tuple((phrase.phrase, phrase.weight) for phrase in wish)
