"""The daemon with chores every second: ``python -m tests.acceptance.brisk run``."""

from tickloom.cli import main
from tickloom.daemon import daemon

if __name__ == "__main__":
    daemon._HOUSEKEEPING_SECONDS = 1.0
    main()
