"""Where a model's files are: a path, an embedded name, or a Hugging Face name.

Does: turn what a user typed into a file or folder on this machine.
Does not know: formats. Uses the network only through huggingface_hub, and only for a name that
is not in the hub cache.
"""

import os
import re
from pathlib import Path

from asr.checkpoint.folder import CONFIG_JSON, CONFIG_YAML, WEIGHTS, WEIGHTS_INDEX
from asr.checkpoint.spec import UnreadableCheckpoint

DEFAULT_MODEL = "rivulet-en"
"""The model embedded in this repository."""
EMBEDDED = Path(__file__).resolve().parent.parent / "models"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


def embedded_models() -> list[str]:
    """Names of the models in this repository."""
    return sorted(folder.name for folder in EMBEDDED.glob("*/") if (folder / WEIGHTS).is_file())


def locate(source: str | Path) -> Path:
    """File or folder of a source; a Hugging Face name may be downloaded."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source)
    if (EMBEDDED / name).is_dir() and Path(name).name == name:
        return EMBEDDED / name
    if not _HUB_NAME.fullmatch(name) or name.endswith(".nemo"):
        embedded = ", ".join(embedded_models()) or "none"
        raise UnreadableCheckpoint(
            f"no file, folder or embedded model is called {name!r} (embedded: {embedded})"
        )
    return _cached(name) or _downloaded(name)


def checkpoint_in(folder: Path) -> Path | None:
    """Return the folder itself if it is a checkpoint, else the only ``.nemo`` in it."""
    weights = any((folder / name).is_file() for name in (WEIGHTS, WEIGHTS_INDEX))
    if weights and any((folder / name).is_file() for name in (CONFIG_YAML, CONFIG_JSON)):
        return folder
    archives = sorted(folder.glob("*.nemo"))
    return archives[0] if len(archives) == 1 else None


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _cached(name: str) -> Path | None:
    """Newest usable snapshot of the name in the hub cache, the main branch first."""
    repository = _hub_cache() / f"models--{name.replace('/', '--')}"
    main = repository / "refs" / "main"
    revision = main.read_text().strip() if main.is_file() else ""
    snapshots = sorted(
        repository.glob("snapshots/*/"),
        key=lambda folder: (folder.name == revision, folder.stat().st_mtime),
        reverse=True,
    )
    return next(filter(None, map(checkpoint_in, snapshots)), None)


def _downloaded(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise UnreadableCheckpoint(
            f"{name} is not in the hub cache, and huggingface_hub is not installed to fetch it"
        ) from error
    try:
        # NVIDIA's repositories hold one .nemo named like the repository.
        return Path(hf_hub_download(name, f"{name.split('/')[1]}.nemo"))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UnreadableCheckpoint(
            f"{name} is not in the hub cache and could not be fetched ({type(error).__name__})"
        ) from error
