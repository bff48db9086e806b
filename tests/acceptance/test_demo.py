"""The demo, as a visitor starts it."""

import asyncio
import re
import sys


async def test_the_demo_stores_what_it_sends() -> None:
    """A visitor who types the first command of the README would see an empty table."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tickloom", "demo", "--seconds", "25", "--rate", "50"), stdout=asyncio.subprocess.PIPE
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    counts = re.search(r"read ([\d,]+) messages: ([\d,]+) stored", said)
    assert counts, said
    read, stored = (int(count.replace(",", "")) for count in counts.groups())
    assert read >= stored > 9_000, said  # 5,000 pairs of history come first
    assert "the ledger adds up" in said
