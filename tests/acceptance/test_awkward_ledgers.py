"""The ledger is emptied, or lost, or cannot move: the daemon says what to type, and does not go round in circles."""

from tests.acceptance.replica import Start
from tests.acceptance.ticks import MILLISECOND, now, pairs
from tests.acceptance.world import World
from tests.hostile import Thing
from tests.waiting import until

BAD = Thing("prices", b"S1", b"not json", 1_790_000_000_000)


def test_the_ledger_was_emptied(world: World, start: Start) -> None:
    """A daemon took over 88 times in 20 seconds, because messages that it read again met their own dead letters."""
    world.produce([*pairs(now(), 30, step=MILLISECOND), BAD])
    world.drain()
    world.query("DELETE FROM tickloom.offsets")
    world.query("TRUNCATE stock_prices, stock_volumes, stock_analytics_data")
    checked = world.tickloom("check")
    assert checked.returncode == 3
    assert "TRUNCATE tickloom.offsets" in checked.stdout.replace("\n", " ")
    with start(world) as daemon:
        last = daemon.mistake()
    assert "tickloom.dead_letters holds offset" in last
    world.query(last[last.index("TRUNCATE") :])
    world.drain()
    assert world.differences() == []


def test_rows_that_no_ledger_knows(world: World) -> None:
    """A user who brings history into the tables, or has lost only the ledger, would have to empty them."""
    world.produce(pairs(now(), 30, step=MILLISECOND))
    world.drain()
    before = world.query("SELECT * FROM stock_prices ORDER BY 1, 2")
    world.query("DELETE FROM tickloom.offsets")
    world.produce(pairs(now() + 100 * MILLISECOND, 10, step=MILLISECOND))
    world.drain()
    assert set(before) <= set(world.query("SELECT * FROM stock_prices"))
    assert world.count("stock_analytics_data") == 40


def test_the_ledger_is_emptied_while_it_runs(world: World, start: Start) -> None:
    """A fenced daemon took its partitions over again from the beginning, and met the existing rows for ever."""
    world.produce([*pairs(now(), 30, step=MILLISECOND), BAD])
    with start(world) as daemon:
        until(lambda: world.loaded() == 61)
        world.query("DELETE FROM tickloom.offsets")
        world.produce(pairs(now() + 100 * MILLISECOND, 10, step=MILLISECOND))
        last = daemon.mistake()
    assert "TRUNCATE tickloom.offsets" in last


def test_sessions_that_come_to_nothing(world: World, start: Start) -> None:
    """A daemon that starts over and over without progress looked as healthy as one that works."""
    world.query(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.next_offset > OLD.next_offset THEN RETURN NULL; END IF; RETURN NEW; END $$"
    )
    world.query("CREATE TRIGGER keep BEFORE UPDATE ON tickloom.offsets FOR EACH ROW EXECUTE FUNCTION keep()")
    world.produce(pairs(now(), 10, step=MILLISECOND))

    with start(world, TICKLOOM_RETRY_MAX_SECONDS="2") as daemon:
        until(lambda: daemon.get("/livez")[0] == 503, 30)
        assert "sessions in a row ended without a commit" in daemon.get("/livez")[1]
        assert world.query("SELECT max(epoch) FROM tickloom.offsets")[0][0] < 12, "they must wait in between"
        world.query("DROP TRIGGER keep ON tickloom.offsets")
        until(lambda: world.loaded() == 20)
        assert daemon.get("/livez")[0] == 200
    assert world.differences() == []
