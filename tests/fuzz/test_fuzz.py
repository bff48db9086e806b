"""A short run of the fuzzer, the same each time; `make fuzz` is a long one."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import corpus
from tests.fuzz.target import one_input

ROOT = Path(__file__).parents[2]
has_atheris = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64") or sys.version_info >= (3, 14),
    reason="atheris has wheels for Linux on x86-64 alone, up to Python 3.13",
)
UNGUARDED = (
    "from tests.fuzz import __main__ as fuzz; import tickloom.core.checks as stage; "
    "stage.MAX_MAGNITUDE = 1e16; fuzz.main()"
)


def fuzz(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer in a process of its own, since an input may end it."""
    chosen = ["--directory", str(directory), "--seed", "20261124", "--seconds", "150"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *command, *chosen], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )


def test_the_corpus() -> None:
    """The fuzzer would start from inputs that fail already."""
    for seed in corpus.seeds():
        one_input(seed)


@has_atheris
def test_bytes_that_nobody_thought_of(tmp_path: Path) -> None:
    """A message that nobody imagined could be read in two ways, or kill the process without a word."""
    done = fuzz(tmp_path, "-m", "tests.fuzz", "--runs", "10000")
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "Done 10000 runs" in done.stderr
    assert not list(tmp_path.glob("crash-*"))


@has_atheris
def test_the_fuzzer_finds_what_is_wrong(tmp_path: Path) -> None:
    """A fuzzer that checks nothing would be green for ever."""
    done = fuzz(tmp_path, "-c", UNGUARDED, "--runs", "10000")
    assert done.returncode != 0
    assert "is (" in done.stdout + done.stderr
    assert "not bad_number" in done.stdout + done.stderr
    assert list(tmp_path.glob("crash-*"))
