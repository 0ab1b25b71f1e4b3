"""What a session asks for on the link, in the recogniser's terms.

Does: commands -> channel options, endpointing, biasing.
Does not know: sessions, engines.
"""

from asr.interface import Biasing, Phrase
from asr.live import ChannelOptions, Endpointing
from server.worker import link


def channel_options(command: link.Open) -> ChannelOptions:
    """Return the options of each channel of a session."""
    return ChannelOptions(
        rate=command.rate,
        look_ahead=command.look_ahead,
        language=command.language,
        partials=command.partials,
        words=command.words,
        endpointing=endpointing(command.turns),
        biasing=biasing(command.boost),
    )


def endpointing(turns: link.Turns) -> Endpointing:
    """Return when a turn ends."""
    return Endpointing(
        mode=turns.mode,
        silence_ms=turns.silence_ms,
        hesitation_ms=turns.hesitation_ms,
        eager_ms=turns.eager_ms,
        max_turn_ms=turns.max_turn_ms,
    )


def biasing(phrases: link.Phrases) -> Biasing:
    """Return what is favoured; raises BadBiasing."""
    return Biasing(phrases=tuple(Phrase(text, weight) for text, weight in phrases))
