"""Books -> sentences to count or to speak, none from a book that held-out speech was read from.

Does: strips what is around a Project Gutenberg book, cuts sentences, spells them as transcripts
are; leaves out whole books that share word sequences with transcripts kept for evaluation.
Does not know: vocabularies, where the books are from.

    python -m asr.training.texts OUT FOLDER... --held MANIFEST...
"""

import argparse
import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SEQUENCE = 7
"""Words in a row that two texts rarely share by chance."""
MOST_SHARED = 1
"""A book with more such sequences of held-out speech is one it was read from."""
SHORTEST_BOOK = 20_000
FOLDED = str.maketrans(
    {
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("‘’", "'"),
        **dict.fromkeys("—–", " -- "),
        "…": ".",
        "æ": "ae",
        "œ": "oe",
        "_": "",
    }
)
TITLES = {
    "capt": "captain",
    "col": "colonel",
    "dr": "doctor",
    "gen": "general",
    "jr": "junior",
    "lieut": "lieutenant",
    "mr": "mister",
    "mrs": "missus",
    "prof": "professor",
    "rev": "reverend",
    "st": "saint",
}
_TITLE = re.compile(rf"\b({'|'.join(TITLES)})\.", re.IGNORECASE)
_BEGIN = re.compile(r"START OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*\n")
_END = re.compile(r"END OF (?:THE|THIS) PROJECT GUTENBERG|\nEnd of (?:the )?Project Gutenberg")
_NOTE = re.compile(r"\[[^\]]{0,200}\]")
_SENTENCE = re.compile(r"(?<=[.!?;:])[\"')]*\s+|--+")
UNSPOKEN = re.compile(r"[0-9$%&/=<>@#\\|{}]")
_COMMON = frozenset("a and as for had he his i in is it of that the to was with you".split())


def body(book: str) -> str:
    """Return a book without what its publisher put around it."""
    begin = _BEGIN.search(book)
    text = book[begin.end() :] if begin else book
    end = _END.search(text)
    return text[: end.start()] if end else text


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text in lower case: letters and apostrophes, 2 to 60 words.

    A sentence with figures or signs is left out, for nobody knows how it would be read.
    """
    for paragraph in re.split(r"\n\s*\n", _spoken(text)):
        for sentence in _SENTENCE.split(" ".join(paragraph.split())):
            if sentence.isupper() or UNSPOKEN.search(sentence):
                continue
            if 2 <= len(words := _words(sentence)) <= 60:
                yield " ".join(words)


def _spoken(text: str) -> str:
    """Return a text in plain letters, notes left out and titles as they are said."""
    folded = unicodedata.normalize("NFKD", text.translate(FOLDED))
    plain = _NOTE.sub(" ", folded.encode("ascii", "ignore").decode())
    return _TITLE.sub(lambda found: TITLES[found[1].lower()], plain)


def _words(text: str) -> list[str]:
    words = (word.strip("'") for word in re.findall(r"[a-z']+", text.lower()))
    return list(filter(None, words))


def is_english(said: Sequence[str]) -> bool:
    """Whether one word in five is one of the commonest."""
    words = " ".join(said[:2_000]).split()
    return sum(word in _COMMON for word in words) >= len(words) / 5


def sequences(words: Sequence[str]) -> set[tuple[str, ...]]:
    """Return all runs of ``SEQUENCE`` words; a shorter text of four words or more is one."""
    if 4 <= len(words) < SEQUENCE:
        return {tuple(words)}
    return {tuple(words[i : i + SEQUENCE]) for i in range(len(words) - SEQUENCE + 1)}


def held_out(manifests: Iterable[Path]) -> set[tuple[str, ...]]:
    """Return the word sequences of transcripts that no text may have."""
    held = set[tuple[str, ...]]()
    for manifest in manifests:
        for line in manifest.read_text(encoding="utf-8").splitlines():
            held |= sequences(_words(_spoken(json.loads(line)["text"])))
    return held


def usable(book: str, held: set[tuple[str, ...]]) -> list[str]:
    """Return the sentences of a book; none of one that held-out speech was read from."""
    said = list(sentences(body(book)))
    if not is_english(said) or len(sequences(" ".join(said).split()) & held) > MOST_SHARED:
        return []
    return [sentence for sentence in said if not sequences(sentence.split()) & held]


def main() -> int:
    """Write the sentences of all books, each once."""
    args = _arguments()
    held, seen, books = held_out(args.held), set[int](), 0
    paths = sorted(path for folder in args.folders for path in folder.rglob("*.txt"))
    with args.out.open("w", encoding="ascii") as out:
        for number, path in enumerate(paths, 1):
            text = path.read_text(encoding="utf-8", errors="replace")
            said = usable(text, held) if len(text) >= SHORTEST_BOOK else []
            fresh = [sentence for sentence in said if hash(sentence) not in seen]
            seen.update(map(hash, fresh))
            out.writelines(f"{sentence}\n" for sentence in fresh)
            books += bool(fresh)
            if number % 100 == 0 or number == len(paths):
                sys.stderr.write(f"{number} of {len(paths)} files, {books} books\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m asr.training.texts", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--held", type=Path, nargs="*", default=[], metavar="MANIFEST")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
