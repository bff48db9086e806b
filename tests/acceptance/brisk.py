"""The daemon with housekeeping every second: ``python -m tests.acceptance.brisk run``."""

from tickloom.cli import main
from tickloom.daemon import housekeeping

if __name__ == "__main__":
    housekeeping._EVERY_SECONDS = 1.0
    main()
