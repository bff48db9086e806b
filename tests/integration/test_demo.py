"""The demo, as somebody runs it who has just installed the package."""

import re
import subprocess
import sys


def test_the_demo_stores_rows() -> None:
    """The first thing that anybody sees of tickloom would be a row of zeros."""
    command = [sys.executable, "-m", "tickloom", "demo", "--seconds", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"read ([\d,]+) messages: ([\d,]+) stored", done.stdout)
    assert found, done.stdout
    assert int(found[2].replace(",", "")) > 5_000
    assert "the ledger adds up" in done.stdout
