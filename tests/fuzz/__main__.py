"""Fuzz decode and the parsers of event times, by atheris: `python -m tests.fuzz --seconds 60`.

Inputs that it finds interesting stay in the directory, and the next run begins with them. An input that fails is
written there too, as `crash-…`; give it as an argument to see it fail again.
"""

import argparse
import sys
from pathlib import Path

import atheris

INSTRUMENTED = [
    "tickloom.core.checks",
    "tickloom.core.codecs",
    "tickloom.core.decode",
    "tickloom.core.timestamps",
    "tests.reference",
]

with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
    from tests.fuzz import corpus
    from tests.fuzz.target import one_input


def main() -> None:
    """Fuzz until the time or the runs are over, or something fails. Does not return."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument(
        "--runs", type=int, default=-1, help="the most inputs to try; with --seed they are the same each time"
    )
    parser.add_argument("--seed", type=int, default=0, help="0 draws a new one")
    parser.add_argument("--directory", type=Path, default=Path(".cache/fuzz"))
    parser.add_argument("inputs", type=Path, nargs="*", help="run only these files")
    chosen = parser.parse_args()
    directory: Path = chosen.directory
    found, words = directory / "corpus", directory / "dictionary"
    found.mkdir(parents=True, exist_ok=True)
    corpus.write_dictionary(words)
    options = {
        "max_total_time": chosen.seconds,
        "runs": chosen.runs,
        "seed": chosen.seed,
        "max_len": 4_096,
        "entropic": int(not chosen.seed),  # its schedule depends on the clock
        "reload": 0,
        "timeout": 60,
        "rss_limit_mb": 0,  # atheris keeps the results of comparisons: it grows by itself, some 6 kB an input
        "dict": words,
        "seed_inputs": f"@{corpus.write_seeds(directory / 'seeds')}",
        "artifact_prefix": f"{directory}/",
        "print_final_stats": 1,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, *map(str, chosen.inputs or [found])], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
