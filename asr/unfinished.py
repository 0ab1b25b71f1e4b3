"""Words that end no sentence: who says one of them and pauses goes on.

Does: say so of a word, in English.
Does not know: silence, turns, what comes next.

Chosen by count: in 242,528 English sentences (Common Voice, LibriSpeech, LJSpeech, CLINC150,
BANKING77, Taskmaster, earnings calls, Gutenberg) each of these ends fewer than 0.5 % of the
sentences' places where it stands, and fewer than 2 % in any one of the eight. Left out: words
that may be a whole turn ("no", "what", "who", "which"), and those that close short answers
("I had", "they would", "yes he must").
"""

ENDS_NO_SENTENCE = frozenset(
    "the a an my your our their his its every very quite "
    "and or but if because than of to just "
    "i we i'm i'll we're it's that's let uh um".split()
)


def ends_no_sentence(word: str) -> bool:
    """Whether speech is unlikely to end behind this word; a full stop behind it says otherwise."""
    return word.casefold().rstrip(",") in ENDS_NO_SENTENCE
