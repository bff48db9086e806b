"""The Dagster code location in a real Dagster, against a real broker and a real Postgres."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import confluent_kafka
import dagster as dg
import pytest
from confluent_kafka.admin import AdminClient

from tests.acceptance.world import QUICK, World
from tests.hostile import Thing, hostile_things
from tickloom.integrations.dagster import TickloomResource, alerts, defs, stock_data_alert
from tickloom.integrations.dagster import hours as hourly
from tickloom.integrations.dagster.resource import DagsterSettings

ASSETS = ("stock_prices_asset", "stock_volume", "joined_stock_data")
HOUR = timedelta(hours=1)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose settings are those of this process."""
    world = World.make(kafka, database_url, topics)
    world.settings |= QUICK
    for name, value in world.environment.items():
        if name.startswith("TICKLOOM_"):
            monkeypatch.setenv(name, value)
    return world


def materialize(instance: dg.DagsterInstance, *, good: bool = True, **limits: Any) -> dg.ExecuteInProcessResult:
    """A run of the job; ``limits`` are fields of the resource."""
    job = defs.resolve_job_def("stock_data_job")
    config = {"resources": {"tickloom": {"config": limits}}}
    done = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    assert done.success is good
    return done


def checks_of(done: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """By name; those of a raw asset with its name before."""
    return {
        one.check_name if one.check_name != "rejects" else f"{one.asset_key.to_user_string()}.rejects": one
        for one in done.get_asset_check_evaluations()
    }


def failed(done: dg.ExecuteInProcessResult) -> set[str]:
    return {name for name, check in checks_of(done).items() if not check.passed}


def metadata_of(done: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = done.asset_materializations_for_node("stock_data")[-3:][ASSETS.index(asset) :][:1]
    assert event.asset_key == dg.AssetKey(asset)
    return {name: value.value for name, value in event.metadata.items()}


def ticks(
    count: int, *, sides: tuple[str, ...] = ("prices", "volumes"), bad: int = 0, ago: timedelta = HOUR
) -> list[Thing]:
    """Pairs of one instant each, ``ago`` and on, a millisecond apart; ``bad`` more messages in each topic."""
    start = datetime.now(UTC) - ago
    things = []
    for side in sides:
        for number in range(count):
            when = (start + timedelta(milliseconds=number)).isoformat()
            value = json.dumps({"symbol": "S", "price": number, "volume": number, "timestamp": when}).encode()
            things.append(Thing(side, b"S", value, round(start.timestamp() * 1000) + number))
        things += [Thing(side, b"S", b"?", round(time.time() * 1000))] * bad
    return things


def test_the_names_of_the_original(instance: dg.DagsterInstance) -> None:
    """A user of the original would not find its assets, its job, its schedule or their order."""
    graph = defs.resolve_asset_graph()
    assert {dg.AssetKey(name) for name in ASSETS} <= graph.get_all_asset_keys()
    assert graph.get(dg.AssetKey("joined_stock_data")).parent_keys == {dg.AssetKey(name) for name in ASSETS[:2]}
    assert {node.name for node in defs.resolve_job_def("stock_data_job").nodes} == {"stock_data", "stock_data_checks"}
    schedule = defs.resolve_schedule_def("stock_data_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("*/2 * * * *", "UTC")
    assert schedule.job_name == "stock_data_job"
    with dg.build_schedule_context(instance, scheduled_execution_time=datetime(2026, 11, 25, 10, 2, tzinfo=UTC)) as at:
        tick = schedule.evaluate_tick(at)
    assert len(tick.run_requests or ()) == 1


def test_a_run_loads_all_three_tables(world: World, instance: dg.DagsterInstance) -> None:
    """The page would show a green run over tables that are not what the log says, or nothing that people look at."""
    world.produce(hostile_things(seed=61, messages=3_000))
    done = materialize(instance, verify_hours=500, one_sided_share=1.0)
    assert world.differences() == []
    assert failed(done) <= {"fresh", "stock_prices_asset.rejects", "stock_volume.rejects"}  # its events are days old
    assert checks_of(done).keys() == {"ledger", "exact", "fresh", "gaps", "join"} | {
        f"{name}.rejects" for name in ASSETS[:2]
    }
    joined = metadata_of(done, "joined_stock_data")
    assert (joined["messages"], joined["drained"], joined["lag"]) == (3_000, True, 0)
    dead = dict(world.query("SELECT topic, count(*)::int FROM tickloom.dead_letters GROUP BY 1"))
    assert joined["rejected"] == sum(dead.values()) == sum(joined["rejects"].values())
    for name, side, table in zip(
        ASSETS, ("prices", "volumes", None), ("stock_prices", "stock_volumes", "stock_analytics_data"), strict=True
    ):
        metadata = metadata_of(done, name)
        assert metadata["rows in touched hours"] == world.query(f"SELECT count(*)::int FROM {table}")[0][0]
        assert metadata["preview"].startswith("| symbol | timestamp | ")
        assert metadata["preview"].count("\n") > 2
        assert metadata["chart"].startswith("![rows by minute](data:image/svg+xml;base64,")
        assert side is None or metadata["rejected"] == dead[world.topics[side]]
    touched = {f"{datetime.fromisoformat(hour):%Y-%m-%d-%H:%M}" for hour in joined["hours"]}
    assert instance.get_materialized_partitions(dg.AssetKey("stock_data_hours")) == touched

    again = materialize(instance)  # nothing is new
    assert metadata_of(again, "joined_stock_data")["messages"] == 0
    assert "preview" not in metadata_of(again, "joined_stock_data")


def test_a_bounded_run(world: World, instance: dg.DagsterInstance) -> None:
    """A run with a limit of messages would ignore it, or the next run would not continue after it."""
    world.produce(ticks(500))
    done = materialize(instance, max_messages=300)
    metadata = metadata_of(done, "joined_stock_data")
    assert (metadata["messages"], metadata["ended by"], metadata["lag"], metadata["drained"]) == (
        300,
        "max_messages",
        700,
        False,
    )
    materialize(instance)
    assert world.differences() == []


def spoil_the_ledger(world: World) -> None:
    world.query(
        "UPDATE tickloom.offsets SET stored = stored + 1 WHERE partition = (SELECT max(partition) FROM tickloom.offsets)"
    )


def spoil_an_average(world: World) -> None:
    world.query("UPDATE stock_prices SET price_moving_avg = price_moving_avg + 1")


def note_a_gap(world: World) -> None:
    world.query("INSERT INTO tickloom.gaps VALUES ('elsewhere', 7, 10, 20, now(), 'continue')")


def lose_volumes(world: World) -> None:
    world.query("DELETE FROM stock_volumes WHERE volume >= 50")


@pytest.mark.parametrize(
    ("name", "spoil", "text"),
    [
        ("ledger", spoil_the_ledger, "counted"),
        ("exact", spoil_an_average, "tickloom verify --repair"),
        ("gaps", note_a_gap, "elsewhere 7: offsets 10 to 19"),
        ("join", lose_volumes, "50 have a price only"),
    ],
)
def test_a_check_sees_spoilt_tables(
    world: World, instance: dg.DagsterInstance, name: str, spoil: Callable[[World], None], text: str
) -> None:
    """A check that is always green is worse than none."""
    world.produce(ticks(100))
    assert failed(materialize(instance, fresh_seconds=7_200)) == set()
    spoil(world)
    selection = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("joined_stock_data"), name))
    alone = dg.Definitions(
        assets=defs.assets,
        asset_checks=defs.asset_checks,
        resources=defs.resources,
        jobs=[dg.define_asset_job("look", selection)],
    ).resolve_job_def("look")
    done = alone.execute_in_process(instance=instance)
    (check,) = done.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == (name, False)
    assert text in (check.description or "")


def test_too_many_rejects_are_seen(world: World, instance: dg.DagsterInstance) -> None:
    """A producer that writes rubbish into one topic would be noticed only by the people who miss the rows."""
    world.produce(ticks(100) + ticks(0, sides=("prices",), bad=10))
    done = materialize(instance, fresh_seconds=7_200)
    assert failed(done) == {"stock_prices_asset.rejects"}
    assert "not_json 10" in (checks_of(done)["stock_prices_asset.rejects"].description or "")


def test_old_rows_are_not_fresh(world: World, instance: dg.DagsterInstance) -> None:
    """A feed that stands still since the morning would look well."""
    world.produce(ticks(100))
    done = materialize(instance, fresh_seconds=600)
    assert failed(done) == {"fresh"}
    assert checks_of(done)["fresh"].severity is dg.AssetCheckSeverity.WARN


def test_messages_lost_to_retention_are_seen(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that went on over a gap would look as if all had been loaded."""
    monkeypatch.setenv("TICKLOOM_GAP_POLICY", "continue")
    world.produce(ticks(200))
    materialize(instance, max_messages=20)
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    cut = [confluent_kafka.TopicPartition(topic, number, -1) for topic in world.topics.values() for number in range(4)]
    for done in admin.delete_records(cut).values():
        done.result(30)
    assert "gaps" in failed(materialize(instance, fresh_seconds=7_200))


def test_an_hour_is_looked_at(world: World, instance: dg.DagsterInstance) -> None:
    """One hour in question could only be checked together with all others."""
    world.produce(ticks(100, ago=2 * HOUR) + ticks(50, ago=30 * HOUR))
    materialize(instance)
    key = min(instance.get_materialized_partitions(hourly.KEY))

    def look() -> dict[str, bool]:
        done = dg.materialize(
            defs.assets, selection=[hourly.KEY], partition_key=key, instance=instance, resources=defs.resources
        )
        (seen,) = done.get_asset_materialization_events()
        assert seen.partition == key
        rows = {name: value.value for name, value in seen.step_materialization_data.materialization.metadata.items()}
        assert rows["rows of stock_prices"] == 50
        return {check.check_name: check.passed for check in done.get_asset_check_evaluations()}

    assert look() == {"exact": True, "join": True}
    world.query("UPDATE stock_prices SET price_moving_avg = 1 WHERE timestamp < now() - interval '20 hours'")
    assert look() == {"exact": False, "join": True}


class _Hook(BaseHTTPRequestHandler):
    """Keeps what is posted."""

    posted: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_failed_run_alerts(world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at a page all night: a run that failed would be found in the morning."""
    server = HTTPServer(("127.0.0.1", 0), _Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/hook"
    monkeypatch.setattr(alerts, "DEFAULTS", DagsterSettings(alert_url=address))  # type: ignore[call-arg]
    try:
        world.query("DROP TABLE stock_volumes CASCADE")
        done = materialize(instance, good=False)
        (event,) = [event for event in done.all_events if event.event_type is dg.DagsterEventType.RUN_FAILURE]
        context = dg.build_run_status_sensor_context(
            sensor_name="stock_data_alert", dagster_event=event, dagster_instance=instance, dagster_run=done.dagster_run
        ).for_run_failure()
        stock_data_alert(context)
    finally:
        server.shutdown()
        server.server_close()
    (alert,) = _Hook.posted
    assert alert["job"] == "stock_data_job"
    assert "has failed" in alert["text"]


def test_a_bound_beyond_reason_is_refused() -> None:
    """A run of no seconds would be green and load nothing."""
    with pytest.raises(Exception, match="max_seconds"):
        TickloomResource(max_seconds=0).drain()
