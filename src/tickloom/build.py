"""What runs: the version, the Python, and the revision of the sources where it is known."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution

from tickloom import __version__
from tickloom.environment import REVISION


def build_info(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The labels of ``tickloom_build_info``. ``revision`` is empty where nobody has noted it."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "revision": environment.get(REVISION) or _installed_revision(),
    }


def _installed_revision() -> str:
    """What pip notes when it installs from a repository (PEP 610)."""
    try:
        noted = json.loads(distribution("tickloom").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return ""
    return str(noted.get("vcs_info", {}).get("commit_id", ""))
