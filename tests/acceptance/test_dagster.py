"""The Dagster code location as processes: ``dagster dev`` with its page, and runs beside runs and a daemon, killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests import services
from tests.acceptance.world import QUICK, World
from tests.hostile import Thing, hostile_things
from tests.waiting import until

MODULE = "tickloom.integrations.dagster"
ROOT = Path(__file__).parents[2]
ASSETS = {"stock_prices_asset", "stock_volume", "joined_stock_data"}
LOCATION = {"repositoryLocationName": MODULE, "repositoryName": "__repository__"}


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world whose group soon notices dead replicas."""
    world = World.make(kafka, database_url, topics, partitions=6)
    world.settings |= QUICK
    return world


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a Dagster with storage of its own, created beforehand: two processes that create it at once disturb each other."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(tmp_path)):
        pass
    return {"DAGSTER_HOME": str(tmp_path)}


class Page:
    """Dagster's page, asked as the browser does."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self._address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            document = json.load(answer)
        assert "errors" not in document, document
        return document["data"]

    def up(self) -> bool:
        with contextlib.suppress(OSError):
            document = self.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")
            return bool(document["repositoriesOrError"].get("nodes"))
        return False


@contextlib.contextmanager
def running(environment: dict[str, str], log: Path, *command: str) -> Iterator[None]:
    """A program of this environment's Dagster while inside; ended with all that it started."""
    with log.open("a") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def dagster_dev(world: World, home: dict[str, str], log: Path) -> Iterator[Page]:
    """``dagster dev`` while inside."""
    port = services.free_port()
    with running(world.environment | home, log, "dagster", "dev", "-m", MODULE, "-h", "127.0.0.1", "-p", str(port)):
        page = Page(port)
        until(page.up, 120)
        yield page


@contextlib.contextmanager
def as_composed(world: World, home: dict[str, str], log: Path, storage: str) -> Iterator[Page]:
    """Code server, page and daemon as docker-compose.yml has them, at other ports; what they know is in ``storage``."""
    code, port = services.free_port(), services.free_port()
    folder = Path(home["DAGSTER_HOME"])
    (folder / "dagster.yaml").write_text((ROOT / "deploy/dagster/dagster.yaml").read_text())
    workspace = (ROOT / "deploy/dagster/workspace.yaml").read_text()
    here = folder / "workspace.yaml"
    here.write_text(workspace.replace("host: dagster-code", "host: 127.0.0.1").replace("port: 4000", f"port: {code}"))
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    serve, tick = (composed[name]["command"] for name in ("dagster-webserver", "dagster-daemon"))
    (line,) = re.findall(r"^CMD (.+)$", (ROOT / "deploy/dagster/Dockerfile").read_text(), re.MULTILINE)
    changed = {"0.0.0.0": "127.0.0.1", "3000": str(port), "4000": str(code), "workspace.yaml": str(here)}
    environment = world.environment | home | {"DAGSTER_POSTGRES_URL": storage}
    page = Page(port)
    with contextlib.ExitStack() as all_of_it:
        for command in (json.loads(line), serve, tick):
            all_of_it.enter_context(running(environment, log, *(changed.get(word, word) for word in command)))
            if command is serve:
                until(page.up, 120)
        yield page


def materialized_by_a_run(page: Page, log: Path) -> set[str]:
    """Launch the job from the page; what it has materialised in the end."""
    launched = page.ask(
        "mutation ($with: ExecutionParams!) { launchRun(executionParams: $with) { __typename "
        "... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
        **{"with": {"selector": LOCATION | {"jobName": "stock_data_job"}, "runConfigData": {}}},
    )["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    of_run = {"run": launched["run"]["runId"]}

    def status() -> str:
        found = page.ask("query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }", **of_run)
        return found["runOrError"]["status"]

    until(lambda: status() in ("SUCCESS", "FAILURE"), 120)
    assert status() == "SUCCESS", log.read_text()[-3000:]
    document = page.ask(
        "query ($run: ID!) { runOrError(runId: $run) { ... on Run { assets { key { path } } } } }", **of_run
    )
    return {asset["key"]["path"][0] for asset in document["runOrError"]["assets"]}


def test_the_page(world: World, home: dict[str, str], tmp_path: Path) -> None:
    """``dagster dev -m tickloom.integrations.dagster`` would come up empty, or its button would do nothing."""
    world.produce(hostile_things(seed=71, messages=2_000))
    with dagster_dev(world, home, tmp_path / "log") as page:
        nodes = page.ask("{ assetNodes { assetKey { path } dependencyKeys { path } jobNames hasAssetChecks } }")[
            "assetNodes"
        ]
        graph = {node["assetKey"]["path"][0]: node for node in nodes}
        needs = {name: {key["path"][0] for key in node["dependencyKeys"]} for name, node in graph.items()}
        assert needs["joined_stock_data"] == {"stock_prices_asset", "stock_volume"}
        assert needs["stock_prices_asset"] == needs["stock_volume"] == set()
        assert all("stock_data_job" in graph[name]["jobNames"] for name in needs if name != "stock_data_hours")
        assert all(node["hasAssetChecks"] for node in nodes)
        (schedule,) = page.ask(
            "query ($of: RepositorySelector!) { schedulesOrError(repositorySelector: $of) { ... on Schedules { results "
            "{ name cronSchedule executionTimezone scheduleState { status } } } } }",
            of=LOCATION,
        )["schedulesOrError"]["results"]
        assert schedule == {
            "name": "stock_data_schedule",
            "cronSchedule": "*/2 * * * *",
            "executionTimezone": "UTC",
            "scheduleState": {"status": "RUNNING"},
        }
        assert materialized_by_a_run(page, tmp_path / "log") >= ASSETS
    assert world.differences() == []


def test_the_parts_of_the_compose_file(world: World, postgres: Any, home: dict[str, str], tmp_path: Path) -> None:
    """``docker compose --profile orchestrate up`` would bring a page without code, or runs that nobody starts."""
    world.produce(hostile_things(seed=73, messages=1_000))
    with as_composed(world, home, tmp_path / "log", services.new_database(postgres)) as page:
        assert materialized_by_a_run(page, tmp_path / "log") >= ASSETS
    assert world.differences() == []


def run_of_the_job(world: World, home: dict[str, str], log: Path) -> subprocess.Popen[str]:
    """A run of the job, as a process of its own."""
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", MODULE, "-j", "stock_data_job"]
    with log.open("a") as out:
        return subprocess.Popen(command, env=world.environment | home, stdout=out, stderr=out, text=True)


def kill_at_work(world: World, process: subprocess.Popen[str]) -> bool:
    """SIGKILL once it owns partitions and has moved the ledger; False where others had done all by then, and it has ended."""
    mine = f"SELECT count(*) FROM tickloom.offsets WHERE next_offset > first_offset AND owner LIKE '%-{process.pid}-%' AND epoch > 0 AND updated_at > now() - interval '2 seconds'"
    until(lambda: world.query(mine)[0][0] > 0 or process.poll() is not None, 120)
    at_work = process.poll() is None
    process.kill()
    process.wait()
    return at_work


def test_a_run_is_terminated(world: World, home: dict[str, str], tmp_path: Path) -> None:
    """The page's button would leave a run that goes on unseen, or a batch half done."""
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "1"}  # half a minute's work
    world.produce(hostile_things(seed=74, messages=6_000))
    log = tmp_path / "log"
    process = run_of_the_job(world, home, log)
    until(lambda: world.loaded() > 0 or process.poll() is not None, 120)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 1, log.read_text()[-3000:]
    assert "DagsterExecutionInterruptedError" in log.read_text()
    done = world.loaded()
    assert 0 < done < 6_000
    del world.settings["TICKLOOM_BATCH_MAX_MESSAGES"]
    world.drain()
    assert world.differences() == []


def feed(world: World, things: list[Thing], stop: threading.Event) -> None:
    """Produce bit by bit, until all is there; the rest at once when asked to stop."""
    for at in range(0, len(things), 40):
        world.produce(things[at : at + 40])
        stop.wait(0.1)


def test_runs_beside_runs_and_a_daemon_all_killed(world: World, home: dict[str, str], tmp_path: Path) -> None:
    """A schedule beside a daemon, and a machine that dies under them, would double rows or lose some."""
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "50"}
    things = hostile_things(seed=72, messages=16_000)
    world.produce(things[:2_000])
    stop = threading.Event()
    feeder = threading.Thread(target=feed, args=(world, things[2_000:], stop))
    feeder.start()
    log, left = tmp_path / "log", []
    try:
        daemon, first, second = world.start("run"), *(run_of_the_job(world, home, log) for _ in range(2))
        left += [daemon, first, second]
        for victim in (first, second):
            while not kill_at_work(world, victim):
                victim = run_of_the_job(world, home, log)
                left.append(victim)
        assert kill_at_work(world, daemon)
        daemon, first, second = world.start("run"), *(run_of_the_job(world, home, log) for _ in range(2))
        left += [daemon, first, second]
        assert [first.wait(150), second.wait(150)] == [0, 0], log.read_text()[-3000:]
        stop.set()
        feeder.join()
        last = run_of_the_job(world, home, log)
        left.append(last)
        assert last.wait(150) == 0, log.read_text()[-3000:]
        assert world.loaded() == 16_000
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    finally:
        stop.set()
        for process in left:
            process.kill()
            process.communicate()
        feeder.join()
    assert world.differences() == []
