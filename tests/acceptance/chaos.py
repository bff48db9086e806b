"""Chaos: replicas at work while everything around them breaks; at the end the judge compares all that is left.

``python -m tests.acceptance.chaos --minutes 20 --seed 7`` (``make soak MINUTES=20``) prints what it broke and what it
found; exit code 1 when a table, a dead letter or a ledger row is not exactly the reference's, or a daemon left by
itself. The schedule follows from the seed; the moments are the machine's.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import asyncpg

from tests import services
from tests.acceptance.faulty import POINTS
from tests.acceptance.proxy import Proxy
from tests.acceptance.world import World
from tests.hostile import hostile_things

PARTITIONS = 6
_QUICK = {"socket.timeout.ms": 5000, "topic.metadata.refresh.interval.ms": 1000}
PROTOCOLS = {
    "classic": json.dumps({"session.timeout.ms": 2000, "heartbeat.interval.ms": 500} | _QUICK),
    "consumer": json.dumps({"group.protocol": "consumer", "group.remote.assignor": "range"} | _QUICK),
}
SETTINGS = {
    "TICKLOOM_BATCH_MAX_MESSAGES": "500",
    "TICKLOOM_PARTITIONS_FAR_AHEAD": "100000",  # a soak's market runs ahead of the clock
    "TICKLOOM_CACHE_MAX_SYMBOLS": "15",
    "TICKLOOM_RETRY_MAX_SECONDS": "1",
    "TICKLOOM_DATABASE_COMMAND_TIMEOUT_SECONDS": "6",
    "TICKLOOM_DATABASE_CONNECT_TIMEOUT_SECONDS": "3",
    "TICKLOOM_REVOKE_TIMEOUT_SECONDS": "4",
    "TICKLOOM_SHARE_AFTER_SECONDS": "3",
}
MOST_PARTITIONS = 12
TABLES = ("stock_prices", "stock_volumes", "stock_analytics_data")


@dataclass
class Replica:
    """A daemon process; ``doomed`` ones may end by SIGKILL at their fault."""

    process: subprocess.Popen[str]
    log: Path
    doomed: bool
    paused: bool = False


@dataclass
class Outcome:
    """What a run did and found."""

    faults: Counter[str] = field(default_factory=Counter[str])
    starts: int = 0
    messages: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        lines = [f"{self.seconds:.0f} s, {self.messages} messages, {self.starts} daemons started, faults injected:"]
        lines += [f"  {count:4} x {kind}" for kind, count in sorted(self.faults.items())]
        return "\n".join([*lines, f"differences = {len(self.wrong)}", *self.wrong])


class Chaos:
    """One world with a broker and a database of its own, both behind proxies, and what can break in it."""

    def __init__(self, seed: int, protocol: str, rate: float, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tickloom-chaos-")))
        self.rng, self.rng_of_producers = random.Random(seed), random.Random(seed)
        self.outcome = Outcome()
        self._rate = rate
        self._long = False
        self._folder = folder
        self._kafka_proxy = stack.enter_context(Proxy())
        self._kafka = services.Kafka(folder, advertised_port=self._kafka_proxy.port)
        self._kafka_proxy.target = self._kafka.behind_port
        stack.callback(self._kafka.kill)
        self._kafka.start()
        if os.geteuid() == 0:
            self._disk = stack.enter_context(services.small_disk(folder / "disk", 1_024))
            folder.chmod(0o755)
        self._postgres = stack.enter_context(services.native_postgres())
        self._postgres_proxy = stack.enter_context(Proxy(self._postgres.port))
        url = services.new_database(self._postgres)
        if os.geteuid() == 0:
            name = url.rpartition("/")[2]
            services.execute(url, f"CREATE TABLESPACE small LOCATION '{self._disk}'")
            services.execute(self._postgres.url, f"ALTER DATABASE {name} SET default_tablespace = small")
        self.world = World.make(self._kafka, url, ("prices", "volumes"), PARTITIONS)
        # The tests' own eyes look past the proxies.
        self._behind = {
            "TICKLOOM_DATABASE_URL": url.replace(f":{self._postgres.port}/", f":{self._postgres_proxy.port}/"),
            "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{self._kafka_proxy.port}",
            "TICKLOOM_KAFKA_OPTIONS": PROTOCOLS[protocol],
        }
        self.world.settings |= SETTINGS
        self._replicas: list[Replica] = []
        self._counts = dict.fromkeys(("prices", "volumes"), PARTITIONS)
        self._things = iter(hostile_things(seed, 2_000_000 if rate > 1_000 else 400_000))
        self._producing = threading.Event()
        stack.callback(self._kill_all)

    # --- what breaks ------------------------------------------------------------------------------------------

    def kill_a_replica(self) -> None:
        """SIGKILL at a random moment."""
        victim = self._some_replica()
        victim.doomed = True
        victim.process.kill()

    def kill_at_a_point(self) -> None:
        """A replica that dies at a named point of the flow."""
        self._make_room()
        point = self.rng.choice(POINTS)
        self.outcome.faults[f"  kill@{point}"] += 1
        self._start(f"kill@{point}:{1 if 'take_over' in point else self.rng.randrange(1, 5)}")

    def lose_a_connection_at_a_point(self) -> None:
        """A replica whose connection breaks at two named points of the flow."""
        self._make_room()
        points = [self.rng.choice([point for point in POINTS if "kafka" not in point]) for _ in range(2)]
        self._start(",".join(f"lose@{point}:{self.rng.randrange(1, 4)}" for point in points))

    def stop_a_replica(self) -> None:
        """SIGTERM: it must drain and leave with exit code 0."""
        victim = self._some_replica()
        self._replicas.remove(victim)
        victim.process.send_signal(signal.SIGTERM)
        self._must_end(victim, 0)

    def pause_a_replica(self) -> None:
        """SIGSTOP past the session timeout, then SIGCONT: a zombie."""
        victim = self._some_replica()
        victim.process.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(2.5, 5))
        victim.process.send_signal(signal.SIGCONT)

    def add_a_replica(self) -> None:
        """One more, up to three."""
        self._make_room()
        self._start()

    def crash_postgres(self) -> None:
        """Immediate shutdown and recovery."""
        self._postgres.crash()
        time.sleep(self.rng.uniform(0, 2))
        self._postgres.start()

    def crash_the_broker(self) -> None:
        """SIGKILL and restart."""
        self._kafka.kill()
        time.sleep(self.rng.uniform(0, 2))
        self._kafka.start()

    def cut_postgres(self) -> None:
        """Every connection to the database is cut."""
        self._postgres_proxy.cut()

    def cut_mid_copy(self) -> None:
        """A connection to the database breaks with a message half sent."""
        self._postgres_proxy.cut_after(self.rng.randrange(20_000, 200_000))

    def stall_postgres(self) -> None:
        """The network to the database stands still, then goes on."""
        self._stalled(self._postgres_proxy)

    def deafen_postgres(self) -> None:
        """Half-open: the connections to the database stand, and nothing comes any more."""
        self._postgres_proxy.deafen()

    def refuse_postgres(self) -> None:
        """The database cannot be reached for a while."""
        self._postgres_proxy.refuse(True)
        self._postgres_proxy.cut()
        time.sleep(self.rng.uniform(1, 3))
        self._postgres_proxy.refuse(False)

    def cut_kafka(self) -> None:
        """Every connection to the broker is cut."""
        self._kafka_proxy.cut()

    def stall_kafka(self) -> None:
        """The network to the broker stands still past the session timeout."""
        self._stalled(self._kafka_proxy)

    def deafen_kafka(self) -> None:
        """Half-open connections to the broker."""
        self._kafka_proxy.deafen()

    def terminate_backends(self) -> None:
        """``pg_terminate_backend`` on everything the daemons have."""
        self.world.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' AND datname = current_database()"
        )

    def cancel_statements(self) -> None:
        """``pg_cancel_backend`` in the middle of whatever runs."""
        for _ in range(20):
            self.world.query(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND state = 'active' AND datname = current_database()"
            )
            time.sleep(0.02)

    def go_read_only(self) -> None:
        """New transactions are refused as on a standby (25006), then taken again."""
        name = self.world.query("SELECT current_database()")[0][0]
        services.execute(self._postgres.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        self.terminate_backends()
        time.sleep(self.rng.uniform(1, 2))
        services.execute(self._postgres.url, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        self.terminate_backends()

    def drop_a_partition(self) -> None:
        """An operator drops empty partitions that the daemons believe to be there."""
        empty = self.world.query(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = ANY "
            "('{stock_prices,stock_volumes,stock_analytics_data}'::regclass[]) AND pg_relation_size(inhrelid) = 0 "
            "ORDER BY random() LIMIT 3"
        )
        for (name,) in empty:
            self.world.query(
                "DO $$ BEGIN SET LOCAL lock_timeout = '500ms'; "
                f"LOCK TABLE {name}; IF NOT EXISTS (SELECT FROM {name}) THEN DROP TABLE {name}; END IF; "
                "EXCEPTION WHEN lock_not_available OR deadlock_detected THEN NULL; END $$"
            )

    def fill_the_disk(self) -> None:
        """The disk of the tables is full (53100), then has room again."""
        ballast = self._disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:  # it is full when it says so
            while file.write(bytes(2**20)):
                pass
        time.sleep(self.rng.uniform(2, 4))
        ballast.unlink()

    def deadlock(self) -> None:
        """A session that locks the ledger's rows the other way round: one of the two is the victim (40P01)."""
        lock = "SELECT FROM tickloom.offsets WHERE (topic, partition) = ('{}', {}) FOR UPDATE"
        first, last = lock.format("prices", 0), lock.format("volumes", PARTITIONS - 1)
        try:
            services.execute(self.world.database_url, f"BEGIN; {last}; SELECT pg_sleep(0.7); {first}; COMMIT")
        except asyncpg.DeadlockDetectedError:
            self.outcome.faults["  (the other one was the victim)"] += 1

    def conflict(self) -> None:
        """The database's default becomes REPEATABLE READ, with a busy rival on the ledger's rows (40001)."""
        name = self.world.query("SELECT current_database()")[0][0]
        admin = self._postgres.url
        services.execute(admin, f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
        self.terminate_backends()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            with suppress(asyncpg.SerializationError):
                services.execute(self.world.database_url, "UPDATE tickloom.offsets SET updated_at = now()")
        services.execute(admin, f"ALTER DATABASE {name} RESET default_transaction_isolation")
        self.terminate_backends()

    def add_or_drop_a_column(self) -> None:
        """A column of somebody's own comes into a table, or goes."""
        table, column = self.rng.choice(TABLES), "note"
        there = f"SELECT FROM information_schema.columns WHERE table_name = '{table}' AND column_name = '{column}'"
        act = f"DROP COLUMN {column}" if self.world.query(there) else f"ADD COLUMN {column} text DEFAULT 'mine'"
        self._lock_for_a_moment(f"ALTER TABLE {table} {act}")

    def detach_a_partition(self) -> None:
        """A partition is detached and attached again, in one go."""
        found = self.world.query(
            "SELECT inhparent::regclass::text, inhrelid::regclass::text, pg_get_expr(relpartbound, inhrelid) "
            "FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = ANY "
            f"('{{{','.join(TABLES)}}}'::regclass[]) ORDER BY random() LIMIT 1"
        )
        for parent, name, bounds in found:
            self._lock_for_a_moment(
                f"ALTER TABLE {parent} DETACH PARTITION {name}; ALTER TABLE {parent} ATTACH PARTITION {name} {bounds}"
            )

    def limit_the_role(self) -> None:
        """The role's time limits become a fraction of a second, for new sessions."""
        limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        services.execute(self._postgres.url, *(f"ALTER ROLE CURRENT_USER SET {name} = '300ms'" for name in limits))
        self.terminate_backends()
        time.sleep(self.rng.uniform(1, 3))
        services.execute(self._postgres.url, *(f"ALTER ROLE CURRENT_USER RESET {name}" for name in limits))
        self.terminate_backends()

    def add_partitions(self) -> None:
        """A topic gets more partitions, with a backlog, and with producers that have not heard of it."""
        side = min(self._counts, key=lambda side: (self._counts[side], self.rng.random()))
        count = min(MOST_PARTITIONS, self._counts[side] + self.rng.randrange(1, 3))
        if count > self._counts[side]:
            services.add_partitions(self.world.bootstrap, self.world.topics[side], count)
            self._counts[side] = count

    # --- how --------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> Outcome:
        """Break things for ``seconds``, every kind at least once; heal; wait for the end of the log; judge."""
        started = time.monotonic()
        self._long = seconds > 300
        self._start()
        producer = threading.Thread(target=self._produce)
        self._producing.set()
        producer.start()
        try:
            kinds = self._schedule()
            seen = 0
            while time.monotonic() - started < seconds or seen < len(FAULTS):
                fault = next(kinds)
                seen += 1
                self.outcome.faults[fault.__doc__ or ""] += 1
                fault(self)
                time.sleep(self.rng.uniform(0.3, 2.5))
                self._inspect()
        finally:
            self._producing.clear()
            producer.join()
        self._drain()
        self.outcome.wrong += self.world.differences()
        self.outcome.seconds = time.monotonic() - started
        return self.outcome

    def _schedule(self) -> Iterator[Callable[["Chaos"], None]]:
        while True:
            yield from self.rng.sample(FAULTS, len(FAULTS))

    def _produce(self) -> None:
        while self._producing.is_set():
            known = (
                dict(self._counts) if self.rng_of_producers.random() < 0.7 else dict.fromkeys(self._counts, PARTITIONS)
            )
            some = [
                replace(thing, partition=zlib.crc32(thing.key or b"") % known[thing.side])
                for thing in islice(self._things, round(self._rate / 4))
            ]
            try:
                self.world.produce(some)
            except AssertionError as error:  # in a thread of its own it would be lost
                self.outcome.wrong.append(f"the log is not what was sent: {error}")
                return
            self.outcome.messages += len(some)
            time.sleep(0.25)

    def _lock_for_a_moment(self, statements: str) -> None:
        """What takes ACCESS EXCLUSIVE locks, given up where it does not get them soon."""
        with suppress(asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            services.execute(self.world.database_url, f"BEGIN; SET LOCAL lock_timeout = '500ms'; {statements}; COMMIT")

    def _start(self, faults: str = "") -> None:
        log = self._folder / f"replica-{self.outcome.starts}.log"
        self.outcome.starts += 1
        module = "tests.acceptance.faulty" if faults else "tickloom"
        with log.open("w") as out:
            process = self.world.start("run", module=module, output=out, FAULTS=faults, **self._behind)
        self._replicas.append(Replica(process, log, doomed="kill" in faults))

    def _some_replica(self) -> Replica:
        if not self._replicas:
            self._start()
        return self.rng.choice(self._replicas)

    def _make_room(self) -> None:
        while len(self._replicas) >= 3:
            self.stop_a_replica()

    def _inspect(self) -> None:
        """Bury the dead, see that nobody left by itself and that the ledger adds up at this very moment."""
        for replica in [replica for replica in self._replicas if replica.process.poll() is not None]:
            self._replicas.remove(replica)
            if not (replica.doomed and replica.process.returncode == -9):
                self._blame(replica, "left by itself")
        if not self._replicas:
            self._start()
        sums = "next_offset - first_offset <> stored + superseded + dead + skipped + missing"
        if self.world.query(f"SELECT FROM tickloom.offsets WHERE {sums}"):
            self.outcome.wrong.append("the ledger did not add up meanwhile")

    def _must_end(self, replica: Replica, code: int) -> None:
        try:
            replica.process.wait(60)
        except subprocess.TimeoutExpired:
            spy = subprocess.run(
                ["py-spy", "dump", "--pid", str(replica.process.pid)], capture_output=True, text=True, check=False
            )
            replica.process.kill()
            replica.process.wait()
            self._blame(replica, f"did not end in a minute after SIGTERM; it stood at\n{spy.stdout}\n")
            return
        unborn = replica.process.returncode == -15 and not replica.log.read_text()  # no handler was there yet
        if (
            replica.process.returncode != code
            and not unborn
            and not (replica.doomed and replica.process.returncode == -9)
        ):
            self._blame(replica, "ended otherwise than asked")

    def _blame(self, replica: Replica, what: str) -> None:
        tail = replica.log.read_text()[-1_500:]
        self.outcome.wrong.append(f"a daemon {what} (exit {replica.process.returncode}):\n{tail}")

    def _drain(self) -> None:
        self._postgres_proxy.cut()
        read = "SELECT coalesce(sum(next_offset - first_offset), 0)::int FROM tickloom.offsets"
        moved, before = time.monotonic(), -1
        while (done := self.world.query(read)[0][0]) < self.outcome.messages:
            if done != before:
                moved, before = time.monotonic(), done
            if time.monotonic() - moved > 60:
                self.outcome.wrong.append(f"all stood still for a minute after the last fault, at {done} messages")
                break
            self._inspect()
            time.sleep(0.5)
        while self._replicas:
            self.stop_a_replica()

    def _stalled(self, proxy: Proxy) -> None:
        proxy.stall()
        time.sleep(self.rng.choice((1, 4, 8, 30) if self._long else (1, 4, 8)))
        proxy.resume()

    def _kill_all(self) -> None:
        for replica in self._replicas:
            replica.process.kill()
            replica.process.wait()


FAULTS: list[Callable[[Chaos], None]] = [
    Chaos.kill_a_replica,
    Chaos.kill_at_a_point,
    Chaos.lose_a_connection_at_a_point,
    Chaos.stop_a_replica,
    Chaos.pause_a_replica,
    Chaos.add_a_replica,
    Chaos.crash_postgres,
    Chaos.crash_the_broker,
    Chaos.cut_postgres,
    Chaos.cut_mid_copy,
    Chaos.stall_postgres,
    Chaos.deafen_postgres,
    Chaos.refuse_postgres,
    Chaos.cut_kafka,
    Chaos.stall_kafka,
    Chaos.deafen_kafka,
    Chaos.terminate_backends,
    Chaos.cancel_statements,
    Chaos.go_read_only,
    Chaos.drop_a_partition,
    Chaos.add_or_drop_a_column,
    Chaos.detach_a_partition,
    Chaos.limit_the_role,
    Chaos.add_partitions,
    Chaos.deadlock,
    Chaos.conflict,
    *([Chaos.fill_the_disk] if os.geteuid() == 0 else []),  # only root may mount a disk to fill
]


@contextmanager
def chaos(seed: int, protocol: str = "classic", rate: float = 400) -> Iterator[Chaos]:
    """A world to break, cleaned up after."""
    with ExitStack() as stack:
        yield Chaos(seed, protocol, rate, stack)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--protocol", choices=PROTOCOLS, default="classic")
    parser.add_argument("--rate", type=float, default=400, help="messages a second")
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.protocol} protocol", flush=True)
    with chaos(asked.seed, asked.protocol, asked.rate) as world:
        outcome = world.run(asked.minutes * 60)
    print(outcome)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(_main())
