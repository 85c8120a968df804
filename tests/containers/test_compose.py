"""compose.yaml and what it mounts agree with the image and with what a server really measures."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_engine import ROOT, Container, inspect

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "tritext.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def answers(command: list[str]) -> bool:
    return bool(shutil.which(command[0])) and subprocess.run([*command, "version"], check=False).returncode == 0


def test_compose_itself_takes_it() -> None:
    command = next((line for line in (["docker", "compose"], ["docker-compose"]) if answers(line)), None)
    if command is None:
        pytest.skip("Docker Compose is not installed.")
    profiles = ["--profile", "gpu", "--profile", "monitoring"]
    done = subprocess.run(
        [*command, "--file", ROOT / "compose.yaml", *profiles, "config", "--quiet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_compose_takes_the_secrets_too(tmp_path: Path) -> None:
    command = next((line for line in (["docker", "compose"], ["docker-compose"]) if answers(line)), None)
    if command is None:
        pytest.skip("Docker Compose is not installed.")
    for name in ("api-key", "tls-cert.pem", "tls-key.pem"):
        (tmp_path / name).write_text("secret")
    files = ["--file", ROOT / "compose.yaml", "--file", ROOT / "deploy" / "secure.yaml"]
    done = subprocess.run(
        [*command, *files, "--profile", "gpu", "config"],
        env={**os.environ, "TRITEXT_SECRETS": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    merged = yaml.safe_load(done.stdout)
    for name in ("server", "gpu"):
        service = merged["services"][name]
        assert service["read_only"] is True
        mounted = {f"/run/secrets/{secret['source']}" for secret in service["secrets"]}
        assert {path for key, path in service["environment"].items() if key.startswith("TRITEXT_")} == mounted


@pytest.mark.parametrize("name", ["server", "gpu"])
def test_a_server_runs_as_the_tests_run_it(compose: Any, image: str, name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]  # noqa: S108
    assert service["healthcheck"]["test"] == inspect(image)["Config"]["Healthcheck"]["Test"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])


def test_what_it_mounts_from_here_is_there(compose: Any) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service["volumes"]]
    ours = [mount.partition(":")[0] for mount in mounts if mount.startswith("./")]
    assert len(ours) == 3
    assert [path for path in ours if not (ROOT / path).exists()] == []


def test_the_dashboard_shows_what_the_server_measures(server: Container) -> None:
    _, supervisors = server.http("GET", "/metrics", port=8003)
    measured = set(re.findall(r"^# TYPE (\w+)", server.metrics() + supervisors, re.MULTILINE))
    shown = {name for expression in EXPRESSIONS for name in re.findall(r"\b(?:nv|tritext)_\w+", expression)}
    assert len(shown) > 10
    assert {name for name in shown if not name.startswith("nv_gpu_")} <= measured


def test_prometheus_asks_the_alias_that_both_servers_have(compose: Any) -> None:
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    found = [job["dns_sd_configs"][0] for job in jobs]
    for name in ("server", "gpu"):
        assert all(compose["services"][name]["networks"]["default"]["aliases"] == each["names"] for each in found)
    assert [each["port"] for each in found] == [8002, 8003]  # Triton's and the steps', the supervisor's
