"""What is shipped beside the code agrees with it: images, compose, systemd, Kubernetes, alerts, dashboard."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry

from producer.__main__ import main as producer_main
from tickloom import options
from tickloom.environment import PREFIX
from tickloom.observe.metrics import Metrics
from tickloom.settings import Settings, load

ALL_TOOLS = os.environ.get("TICKLOOM_TEST_TOOLS") == "all"  # `make test` has seen to them: nothing is skipped
ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
UNIT = ROOT / "deploy/systemd/tickloom.service"
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
DOCKERFILES = (ROOT / "Dockerfile", ROOT / "producer/Dockerfile", ROOT / "deploy/dagster/Dockerfile")
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
TIMEOUT = 60


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT)


def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


def setting_variables() -> set[str]:
    """Every variable that the daemon reads, with the ``_FILE`` twin that each has."""
    names = {PREFIX + name.upper() for name in Settings.model_fields} | options.VARIABLES.keys()
    return names | {f"{name}_FILE" for name in names} | {f"{PREFIX}SECRETS_DIR"}


def producer_variables() -> set[str]:
    app = typer.Typer()
    app.command()(producer_main)
    options = typer.main.get_command(app).params
    return {str(name) for option in options for name in (option.envvar or ())}


def metric_names(registry: CollectorRegistry) -> set[str]:
    """The names of the series that Prometheus stores, not of the families."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + suffix for family in registry.collect() for suffix in suffixes.get(family.type, ("",))}


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@cache
def compose_command() -> tuple[str, ...] | None:
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and run(*command, "version").returncode == 0:
            return command
    return None


@pytest.mark.parametrize("service", sorted(services()))
def test_compose_sets_only_variables_that_exist(service: str) -> None:
    """A misspelt variable is silently ignored by a container: it must not be in the file."""
    given = set(services()[service].get("environment", {}))
    ours = {name for name in given if name.startswith(PREFIX)}
    assert ours <= setting_variables()
    assert {name for name in given if name.startswith("PRODUCER_")} <= producer_variables()


def test_compose_starts_in_the_right_order() -> None:
    """`docker compose up` works the first time: broker, then topics and tables, then the daemon."""
    depends = services()["tickloom"]["depends_on"]
    assert depends["migrate"]["condition"] == depends["topics"]["condition"] == "service_completed_successfully"
    assert depends["broker"]["condition"] == "service_healthy"
    assert services()["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name, service in services().items():
        for other, how in service["depends_on"].items() if isinstance(service.get("depends_on"), dict) else ():
            healthy = how["condition"] == "service_healthy"
            assert not healthy or "healthcheck" in services()[other], f"{name} waits for {other}, which never says"


def test_compose_brings_what_the_original_brought() -> None:
    """A user of the original looks for the tables and the pages where they were; two services cannot share a port."""
    ports = {name: port.split(":")[1] for name, service in services().items() for port in service.get("ports", ())}
    assert len(set(ports.values())) == len(ports)
    assert (ports["postgres"], ports["dagster-webserver"]) == ("5432", "3000")
    environment = services()["postgres"]["environment"]
    assert environment == {"POSTGRES_USER": "myuser", "POSTGRES_PASSWORD": "mypassword", "POSTGRES_DB": "mydatabase"}
    always = {name for name, service in services().items() if "profiles" not in service}
    assert {"broker", "console", "postgres", "producer", "tickloom"} <= always
    assert {name for name, service in services().items() if service.get("profiles") == ["orchestrate"]} == {
        "dagster-database",
        "dagster-code",
        "dagster-webserver",
        "dagster-daemon",
    }


def test_compose_mounts_only_what_exists() -> None:
    """Docker makes an empty folder of a missing file, and the service then fails oddly."""
    for service in services().values():
        for volume in service.get("volumes", ()):
            source = str(volume).split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists()


@pytest.mark.skipif(not ALL_TOOLS and compose_command() is None, reason="no docker compose here")
@pytest.mark.parametrize("profile", ["", "orchestrate", "monitoring"])
def test_compose_accepts_the_file(profile: str) -> None:
    """The real tool reads the file, with and without what a profile adds."""
    profiles = ("--profile", profile) if profile else ()
    done = run(*(compose_command() or ()), *profiles, "-f", COMPOSE, "config", "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    """The images follow the rules that reviewers of images know."""
    binary = Path(sys.executable).parent / "hadolint"
    done = run(binary if binary.exists() else "hadolint", "--failure-threshold", "style", dockerfile)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_images_run_without_root_and_copy_what_is_let_through(dockerfile: Path) -> None:
    """A container that is broken into owns nothing; and each COPY finds its source past .dockerignore."""
    text = dockerfile.read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001$", final, re.MULTILINE)
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):  # its last word is the target
        assert set(line.split()[:-1]) <= allowed


@pytest.mark.skipif(not ALL_TOOLS and shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemctl start` does not meet an unknown option; a stand-in is the program."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/tickloom/bin/tickloom", sys.executable))
    done = run("systemd-analyze", "verify", "--man=no", unit)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_does_not_restart_what_a_person_must_cure() -> None:
    """Exit code 2 leaves its message as the last line of the journal."""
    text = UNIT.read_text()
    for line in (
        "Type=notify",
        "RestartPreventExitStatus=2",
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
    ):
        assert f"\n{line}\n" in text
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+(?==)", text)) <= setting_variables()


def test_the_example_of_settings_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who copies the example would get a daemon that does not start, or a variable that is ignored."""
    text = (ROOT / "deploy/systemd/tickloom.env.example").read_text()
    given = dict(re.findall(rf"^(?:# )?({PREFIX}[A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert set(given) <= setting_variables()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert load().window_rows == 5


def test_kubernetes_manifests_agree_with_the_daemon() -> None:
    """Probes ask the right paths and port, and each variable is a setting."""
    documents = {path.name: yaml.safe_load(path.read_text()) for path in MANIFESTS}
    pod = documents["deployment.yaml"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    paths = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    port = Settings.model_fields["http_port"].default
    assert {container[name]["httpGet"]["port"] for name in paths} == {port}
    names = set(documents["configmap.yaml"]["data"]) | {entry["name"] for entry in container["env"]}
    assert names <= setting_variables()
    assert documents["secret.example.yaml"]["metadata"]["name"] == pod["volumes"][0]["secret"]["secretName"]


def test_alerts_and_dashboard_name_metrics_that_exist() -> None:
    """An alert on a renamed metric never fires, and nobody notices until the day it should have."""
    known = metric_names(Metrics().registry)
    for expression in [*(rule["expr"] for rule in alert_rules()), *dashboard_expressions()]:
        assert set(re.findall(r"\btickloom_\w+", expression)) <= known, expression


def test_each_alert_has_its_section_in_the_runbook() -> None:
    """An operator who is woken up would not find what the alert means and what to do."""
    text = (ROOT / "deploy/RUNBOOK.md").read_text()
    sections = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    assert sections == [rule["alert"] for rule in alert_rules()]
    for rule in alert_rules():
        assert rule["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{rule['alert'].lower()}"
    assert set(re.findall(rf"`({PREFIX}[A-Z_]+)", text)) <= setting_variables()
    assert set(re.findall(r"`(tickloom_\w+)`", text)) <= metric_names(Metrics().registry)


@pytest.mark.skipif(not ALL_TOOLS and shutil.which("promtool") is None, reason="no promtool here")
def test_promtool_accepts_rules_and_configuration() -> None:
    """Prometheus starts with the shipped files."""
    done = run("promtool", "check", "config", "deploy/prometheus/prometheus.yml")
    assert done.returncode == 0, done.stderr
