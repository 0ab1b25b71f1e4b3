"""Why a command failed, in one sentence for the person who typed it.

Does: the error that ends a verb, and the sentence for a package that is not installed.
Does not know: verbs, servers, engines.
"""

EXTRA_OF = {
    "prometheus_client": "engine",
    "torch": "engine",
    "sentencepiece": "engine",
    "safetensors": "engine",
    "yaml": "engine",
    "nemo": "nemo",
    "sounddevice": "microphone",
    "livekit": "livekit",
    "cryptography": "edge",
}
"""Which extra of this distribution brings a package."""


class CommandError(Exception):
    """The verb cannot do what was asked; the message is shown as it is, without a traceback."""


def missing_module(error: ModuleNotFoundError) -> str:
    """One sentence that names the package, the extra and the line that installs it."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(package)
    if extra is None:
        return f"the Python package {package or str(error)!r} is missing: pip install {package}"
    return f"this needs {package}, which the extra {extra!r} brings: pip install -e '.[{extra}]'"
