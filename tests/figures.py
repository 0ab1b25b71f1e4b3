"""A pytest plugin: the last line of a run is one JSON object with its figures."""

import json
import time

import pytest

STARTED = time.monotonic()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the counts after everything else."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    counts = {
        k: len(v)
        for k, v in reporter.stats.items()
        if k in ("passed", "failed", "error", "skipped")
    }
    figures = counts | {"seconds": round(time.monotonic() - STARTED, 1)}
    reporter.write_line(json.dumps(figures))
