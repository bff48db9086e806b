"""``make dagster``: runs the producer and Dagster's page beside a broker and a Postgres that already run.

The addresses come from tickloom's environment variables. Ctrl-C, SIGTERM, or the end of one of the two, ends both. Dagster's
own records are in a temporary folder, which is removed at the end.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

INSTANCE = """\
telemetry: {enabled: false}
nux: {enabled: false}
python_logs:
  managed_python_loggers: [tickloom]
  python_log_level: INFO
"""
MAX_WAIT_SECONDS = 20


def main(port: str = "3000") -> int:
    """Run until a signal; returns 1 if a child ended by itself."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    producer = ["-m", "producer", "--create-topics", "--symbols", "200", "--records", "20000", "--days", "1"]
    faults = [
        "--bad",
        "0.01",
        "--disorder",
        "0.05",
        "--repeats",
        "0.02",
        "--one-sided",
        "0.01",
        "--shape",
        "realistic",
    ]
    page = ["-m", "dagster", "dev", "-m", "tickloom.integrations.dagster", "-h", "127.0.0.1", "-p", port]
    with tempfile.TemporaryDirectory(prefix="tickloom-dagster-", ignore_cleanup_errors=True) as home:
        Path(home, "dagster.yaml").write_text(INSTANCE)
        environment = os.environ | {"DAGSTER_HOME": home, "DAGSTER_DISABLE_TELEMETRY": "1"}
        subprocess.run([sys.executable, "-m", "tickloom", "migrate"], env=environment, check=True)
        print(f"Dagster's page:  http://127.0.0.1:{port}/asset-groups    (the schedule ticks every two minutes)")
        print(
            f'the tables:      psql "{os.environ["TICKLOOM_DATABASE_URL"]}" -c "SELECT * FROM stock_analytics_data LIMIT 10"'
        )
        print("Ctrl-C ends everything.", flush=True)
        with child(environment, *producer, *faults) as producing, child(environment, *page) as serving:
            while not stop.wait(0.5):
                for one in (producing, serving):
                    if one.poll() is not None:
                        print(f"{' '.join(map(str, one.args))} ended with {one.returncode}", file=sys.stderr)
                        return 1
        print("ended", flush=True)
    return 0


@contextlib.contextmanager
def child(environment: Mapping[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python process, and end it and its children at the end of the block. It has a session of its own, so that Ctrl-C
    reaches only us.
    """
    process = subprocess.Popen([sys.executable, *arguments], env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(MAX_WAIT_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
