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
from server.worker.join import Address

DEPLOY = Path(__file__).parents[3] / "deploy"
STOP_S = ServerConfig().drain_s + 3 * gateway.FLUSH_S + 1 + process._QUIT_S
"""From SIGTERM to the end, at most."""


APART = "kubernetes-workers.yaml"


def manifests(file: str = "kubernetes.yaml") -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / file).read_text()))


def manifest(kind: str, name: str = "rivulet", file: str = "kubernetes.yaml") -> dict[str, Any]:
    found = [m for m in manifests(file) if m["kind"] == kind and m["metadata"]["name"] == name]
    assert len(found) == 1
    return found[0]


def pod() -> dict[str, Any]:
    return dict(manifest("StatefulSet")["spec"]["template"]["spec"])


def pod_apart(name: str = "rivulet") -> dict[str, Any]:
    return dict(manifest("Deployment", name, APART)["spec"]["template"]["spec"])


def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "rivulet.service")
    return parser


def dockerfile(word: str) -> list[str]:
    found = re.search(rf"^{word} (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    return list(json.loads(found[1]))


def compose(file: str = "compose.yaml") -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / file).read_text()))


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def commands() -> Iterator[Any]:
    """The arguments that `rivulet serve` gets, by each way."""
    entry = dockerfile("ENTRYPOINT")
    assert entry[:2] == ["rivulet", "serve"]
    yield pytest.param(entry[2:] + dockerfile("CMD"), id="image")
    yield pytest.param(entry[2:] + compose()["services"]["rivulet"]["command"], id="compose")
    yield pytest.param(entry[2:] + pod()["containers"][0]["args"], id="kubernetes")
    apart = compose("compose-workers.yaml")["services"]
    yield pytest.param(entry[2:] + apart["rivulet"]["command"], id="compose apart")
    yield pytest.param(entry[2:] + pod_apart()["containers"][0]["args"], id="kubernetes apart")
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
    settings["external"] = args.external_workers
    ServerConfig(**{name: value for name, value in settings.items() if value is not None})


def worker_commands() -> Iterator[Any]:
    """The arguments that `rivulet worker` gets, and those of its gateway and its service."""
    services = compose("compose-workers.yaml")["services"]
    worker = services["worker"]
    yield pytest.param(worker["entrypoint"], worker["command"], services["rivulet"]["command"])
    (container,) = pod_apart("rivulet-worker")["containers"]
    (gateway,) = pod_apart()["containers"]
    yield pytest.param(container["command"], container["args"], gateway["args"])


@pytest.mark.parametrize(("entry", "arguments", "gateway"), list(worker_commands()))
def test_workers_dial_the_port_on_which_their_gateway_waits_for_them(
    entry: list[str], arguments: list[str], gateway: list[str]
) -> None:
    assert entry == ["rivulet", "worker"]
    parser = parser_of("worker")
    args = parser.parse_args(arguments)
    where = Address.of(args.join)
    assert where.host in ("rivulet", "rivulet-gateways")  # a service of each
    assert str(where.port) == option(gateway, "--external-workers").rpartition(":")[2]
    assert args.secret_file == option(gateway, "--secret-file")


def test_there_are_as_many_workers_as_places_for_them() -> None:
    gateways, workers = (
        manifest("Deployment", name, APART)["spec"] for name in ("rivulet", "rivulet-worker")
    )
    places = int(option(pod_apart()["containers"][0]["args"], "--workers"))
    assert gateways["replicas"] * places == workers["replicas"]
    assert gateways["strategy"]["rollingUpdate"]["maxSurge"] == 0
    services = compose("compose-workers.yaml")["services"]
    replicas = services["worker"]["deploy"]["replicas"]
    assert replicas == int(option(services["rivulet"]["command"], "--workers"))


def test_workers_find_gateways_that_are_not_ready_before_they_come() -> None:
    service = manifest("Service", "rivulet-gateways", APART)["spec"]
    assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"]
    (port,) = service["ports"]
    (container,) = pod_apart()["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports[port["targetPort"]] == port["port"]
    assert container["startupProbe"]["httpGet"]["path"] == "/livez"


def test_pods_apart_fit_together() -> None:
    for name in ("rivulet", "rivulet-worker"):
        spec = manifest("Deployment", name, APART)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels == {"app": name}
        budget = manifest("PodDisruptionBudget", name, APART)["spec"]
        assert budget["selector"]["matchLabels"] == labels
        (container,) = pod_apart(name)["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod_apart(name)["volumes"]}
        assert option(container["args"], "--secret-file").startswith(mounts["worker"] + "/")
    assert manifest("Service", "rivulet", APART)["spec"] == manifest("Service")["spec"]
    rules = manifest("NetworkPolicy", "rivulet", APART)["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == {8765, 8771}
    (only,) = [rule["from"] for rule in rules if rule["ports"] == [{"port": 8771}]]
    assert only == [{"podSelector": {"matchLabels": {"app": "rivulet-worker"}}}]


def test_the_store_can_be_applied_alone_and_takes_gateways_of_both_ways() -> None:
    store = [m for m in manifests() if "valkey" in m["metadata"]["name"]]
    assert {m["kind"] for m in store} == {"Service", "StatefulSet", "NetworkPolicy"}
    assert all(m["metadata"]["labels"] == {"app": "rivulet-valkey"} for m in store)
    (rule,) = manifest("NetworkPolicy", "rivulet-valkey")["spec"]["ingress"]
    labels = manifest("Deployment", "rivulet", APART)["spec"]["template"]["metadata"]["labels"]
    assert rule["from"] == [{"podSelector": {"matchLabels": labels}}]
    assert "redis://rivulet-valkey:6379/0" in pod_apart()["containers"][0]["args"]


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
    for spec in (pod(), pod_apart()):
        hook = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert hook[0] == "sleep"
        assert spec["terminationGracePeriodSeconds"] > int(hook[1]) + STOP_S
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
