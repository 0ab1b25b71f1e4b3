"""What deploy/ says can be: nobody has run it, so at least it names what there is."""

import json
import re
import shlex
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from clients.__main__ import parser_of
from server import gateway
from server.config import ServerConfig
from server.metrics import Metrics
from server.worker import process

DEPLOY = Path(__file__).parents[3] / "deploy"
STOP_S = ServerConfig().drain_s + 3 * gateway.FLUSH_S + 1 + process._QUIT_S
"""From SIGTERM to the end, at most."""


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def manifest(kind: str, name: str = "rivulet") -> dict[str, Any]:
    found = [m for m in manifests() if m["kind"] == kind and m["metadata"]["name"] == name]
    assert len(found) == 1
    return found[0]


def pod() -> dict[str, Any]:
    return dict(manifest("StatefulSet")["spec"]["template"]["spec"])


def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "rivulet.service")
    return parser


def dockerfile(word: str) -> list[str]:
    found = re.search(rf"^{word} (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    return list(json.loads(found[1]))


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def commands() -> Iterator[Any]:
    """The arguments that `rivulet serve` gets, by each way."""
    entry = dockerfile("ENTRYPOINT")
    assert entry[:2] == ["rivulet", "serve"]
    yield pytest.param(entry[2:] + dockerfile("CMD"), id="image")
    yield pytest.param(entry[2:] + compose()["services"]["rivulet"]["command"], id="compose")
    yield pytest.param(entry[2:] + pod()["containers"][0]["args"], id="kubernetes")
    words = shlex.split(unit()["Service"]["ExecStart"])
    assert words[1] == "serve"
    yield pytest.param(words[2:], id="systemd")


@pytest.mark.parametrize("arguments", list(commands()))
def test_every_option_is_one_that_serve_has(arguments: list[str]) -> None:
    parser = parser_of("serve")
    args = parser.parse_args(arguments)
    offered = set(re.findall(r"--[a-z-]+", parser.format_help()))
    assert {word for word in arguments if word.startswith("--")} <= offered
    settings = {name: getattr(args, name) for name in ("host", "workers", "standby", "store")}
    ServerConfig(**{name: value for name, value in settings.items() if value is not None})


def test_probes_ask_for_pages_that_there_are() -> None:
    source = Path(gateway.__file__).read_text()
    container = pod()["containers"][0]
    paths = {container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    paths.add(manifest("StatefulSet")["spec"]["template"]["metadata"]["annotations"]
              ["prometheus.io/path"])  # fmt: skip
    paths |= set(re.findall(r"uri (/\w+)", (DEPLOY / "haproxy.cfg").read_text()))
    paths |= set(re.findall(r"8765(/\w+)", (DEPLOY / "Dockerfile").read_text()))
    assert paths == {"/readyz", "/livez", "/metrics"}
    assert all(f'"{path}"' in source for path in paths)


def test_the_autoscaler_looks_at_a_figure_that_there_is() -> None:
    (metric,) = manifest("HorizontalPodAutoscaler")["spec"]["metrics"]
    figures = Metrics().render([], [], connections=0).decode()
    assert f"# TYPE {metric['pods']['metric']['name']} gauge" in figures


def test_each_way_leaves_the_server_longer_to_end_than_it_takes() -> None:
    hook = pod()["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[0] == "sleep"
    assert pod()["terminationGracePeriodSeconds"] > int(hook[1]) + STOP_S
    grace = compose()["services"]["rivulet"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > STOP_S
    assert int(unit()["Service"]["TimeoutStopSec"]) > STOP_S
    assert unit()["Service"]["KillMode"] == "mixed"


def test_what_is_selected_and_mounted_is_there() -> None:
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    services = {m["metadata"]["name"] for m in manifests() if m["kind"] == "Service"}
    sets = [m for m in manifests() if m["kind"] == "StatefulSet"]
    assert {m["spec"]["serviceName"] for m in sets} <= services
    store = next(word for word in pod()["containers"][0]["args"] if word.startswith("redis:"))
    assert store.removeprefix("redis://").partition(":")[0] in services
    volumes = {volume["name"] for volume in pod()["volumes"]}
    assert {mount["name"] for mount in pod()["containers"][0]["volumeMounts"]} == volumes


def test_the_image_is_made_of_what_the_tree_has() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (DEPLOY.parent / name).exists()
            assert f"!{name}\n" in (DEPLOY / "Dockerfile.dockerignore").read_text()
    (torch,) = re.findall(r"^ARG TORCH=(.+)$", text, re.MULTILINE)
    assert f"TORCH ?= {torch}\n" in (DEPLOY.parent / "Makefile").read_text()
    assert set(compose()["services"]["rivulet"]["build"]["args"]) <= set(
        re.findall(r"^ARG (\w+)", text, re.MULTILINE)
    )
