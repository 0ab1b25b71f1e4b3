"""Tokenizers of checkpoints -> the pieces of a vocabulary.

Does: SentencePiece models (one, or one per language) and Hugging Face ``tokenizer.json``.
Does not know: archives, folders: callers hand in bytes and a way to find members.
"""

import json
from collections.abc import Callable
from typing import Any

import sentencepiece

from asr.checkpoint.config import Config
from asr.checkpoint.spec import UnreadableCheckpoint, UnsupportedModel
from asr.tokenizer import Tokenizer

MAX_PIECES = 1 << 18
_MEMBER_PREFIX = "nemo:"


def tokenizer_from_nemo(config: Config, member: Callable[[str], bytes | None]) -> Tokenizer:
    """Tokenizer a NeMo config names; ``member`` gives the bytes of an artefact or None."""
    kind = config.text("tokenizer.type").lower()
    if kind == "agg":
        pieces = list[str]()
        for language in config.mapping("tokenizer.langs"):
            proto = artefact(config, f"tokenizer.langs.{language}", member)
            pieces += sentencepiece_pieces(proto)
        return Tokenizer(pieces=tuple(pieces))
    if kind not in ("bpe", ""):
        raise UnsupportedModel(f"tokenizer type {kind[:20]} is not SentencePiece")
    proto = artefact(config, "tokenizer", member)
    return Tokenizer(pieces=sentencepiece_pieces(proto), model_proto=proto)


def sentencepiece_pieces(proto: bytes) -> tuple[str, ...]:
    """Pieces of a SentencePiece model, id = index."""
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        return tuple(processor.id_to_piece(i) for i in range(processor.get_piece_size()))
    except (RuntimeError, ValueError, UnicodeDecodeError) as error:
        raise UnreadableCheckpoint("the tokenizer is not a SentencePiece model") from error


def pieces_from_tokenizer_json(text: bytes, count: int) -> tuple[str, ...]:
    """Read the first ``count`` pieces of a Hugging Face ``tokenizer.json``."""
    try:
        root = json.loads(text)
        listed = root["model"]["vocab"]
        # BPE: {piece: id}; Unigram: [[piece, score], ...]; tokens added later: with their ids.
        ids = dict(listed) if isinstance(listed, dict) else {p[0]: i for i, p in enumerate(listed)}
        ids |= {token["content"]: token["id"] for token in root.get("added_tokens", [])}
        by_id: dict[Any, Any] = {number: piece for piece, number in ids.items()}
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise UnreadableCheckpoint("tokenizer.json holds no vocabulary") from error
    found = (by_id.get(number) for number in range(min(count, MAX_PIECES)))
    pieces = tuple(piece for piece in found if isinstance(piece, str))
    if len(pieces) != count:
        raise UnreadableCheckpoint(f"tokenizer.json does not name the model's {count} pieces")
    return pieces


def artefact(config: Config, where: str, member: Callable[[str], bytes | None]) -> bytes:
    """Bytes of the tokenizer named in the section ``where`` of a NeMo config."""
    listed = config.text(f"{where}.model_path") or "tokenizer.model"
    name = listed.removeprefix(_MEMBER_PREFIX).rsplit("/", 1)[-1]
    proto = member(name)
    if not proto:
        raise UnreadableCheckpoint("the tokenizer named by the model config is missing")
    return proto
