"""Typed, safe access to a NeMo ``model_config.yaml``.

Does: parse JSON, or YAML without objects; look up dotted paths, follow plain ``${a.b.c}``
references.
Does not know: what the keys mean, where the text came from.
References are followed on demand, so a nest of aliases is never expanded.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from asr.checkpoint.spec import UnreadableCheckpoint

MAX_CONFIG_BYTES = 16 << 20
"""A config with a 13,000-piece vocabulary written three times takes 1 MB."""
_MAX_NESTING = 64
_MAX_REFERENCES = 16
_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_.\-]+)\}")
_MISSING = object()
Value = TypeVar("Value")


class Config:
    """A mapping read by dotted path; every getter names the path when the value is wrong."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    @classmethod
    def parse(cls, text: bytes) -> "Config":
        """Read YAML; anything but a plain mapping is refused."""
        if len(text) > MAX_CONFIG_BYTES:
            raise UnreadableCheckpoint("the model config is too large")
        try:
            root = json.loads(text)  # so ours are written: a GPU machine may have no YAML reader
        except (ValueError, RecursionError):
            root = _from_yaml(text)
        if not isinstance(root, dict):
            raise UnreadableCheckpoint("the model config is not a mapping")
        return cls(root)

    def get(self, path: str, default: Any = None) -> Any:
        """Value at a dotted path with references followed, or ``default``."""
        value = self._walk(path, _MAX_REFERENCES)
        return default if value is _MISSING or value is None else value

    def is_null(self, path: str) -> bool:
        """Whether the config says null at ``path``, which is not what it means to say nothing."""
        return self._walk(path, _MAX_REFERENCES) is None

    def mapping(self, path: str) -> dict[str, Any]:
        """Return the mapping at ``path``, empty when absent."""
        return self._typed(path, dict, {})

    def sequence(self, path: str) -> list[Any]:
        """Return the list at ``path``, empty when absent."""
        return self._typed(path, list, [])

    def text(self, path: str, default: str = "") -> str:
        """Return the text at ``path``."""
        return self._typed(path, str, default)

    def flag(self, path: str, *, default: bool) -> bool:
        """Return the boolean at ``path``."""
        return self._typed(path, bool, default)

    def number(self, path: str, default: float | None = None) -> float:
        """Return the number at ``path``; absent and without default it is refused."""
        value = self.get(path, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UnreadableCheckpoint(f"the model config has no number at {path}")
        return value

    def count(self, path: str, default: int | None = None, *, most: int = 1 << 16) -> int:
        """Return the whole number from 1 to ``most`` at ``path``."""
        value = self.number(path, default)
        if not 1 <= value <= most or value != int(value):
            raise UnreadableCheckpoint(f"{path} in the model config is not within 1..{most}")
        return int(value)

    def _typed(self, path: str, kind: type[Value], default: Value) -> Value:
        value = self.get(path, default)
        if not isinstance(value, kind):
            raise UnreadableCheckpoint(f"{path} in the model config is not a {kind.__name__}")
        return value

    def _walk(self, path: str, references: int) -> Any:
        value: Any = self._root
        for key in path.split("."):
            if not isinstance(value, dict):
                return _MISSING
            value = value.get(key, _MISSING)
            reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if reference is not None:
                if references == 0:
                    raise UnreadableCheckpoint(f"references at {path} in the model config loop")
                value = self._walk(reference.group(1), references - 1)
        return value


def _from_yaml(text: bytes) -> Any:
    import yaml  # not on every machine that benchmarks

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # The C parser recurses on the C stack: deep nesting is refused before it sees it.
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_NESTING:
                raise UnreadableCheckpoint("the model config is nested too deeply")
        return yaml.load(text, Loader=loader)  # a SafeLoader: builds no objects
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise UnreadableCheckpoint(
            f"the model config is not plain YAML: {type(error).__name__}"
        ) from error
