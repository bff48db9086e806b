"""Which build runs: its version, its Python, and the revision of its sources if that is known."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution

from tickloom import __version__
from tickloom.environment import REVISION


def build_info(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The labels of ``tickloom_build_info``. ``revision`` is empty if it is not known."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "revision": environment.get(REVISION) or _installed_revision(),
    }


def _installed_revision() -> str:
    """The revision that pip notes when it installs from a repository (PEP 610)."""
    try:
        noted = json.loads(distribution("tickloom").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return ""
    return str(noted.get("vcs_info", {}).get("commit_id", ""))
