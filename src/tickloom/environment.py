"""What the environment holds for this program: values, files with values, and names that nothing reads.

A variable's value comes from its ``_FILE`` twin, else from the variable itself, else from a file with its name in the
folder of ``TICKLOOM_SECRETS_DIR``.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tickloom.errors import SettingsError

PREFIX = "TICKLOOM_"
SECRETS_DIR = f"{PREFIX}SECRETS_DIR"
REVISION = f"{PREFIX}BUILD_REVISION"
"""An image sets it, for ``tickloom_build_info``."""
_OTHER_PROGRAMS = (f"{PREFIX}TEST_", f"{PREFIX}DAGSTER_", f"{PREFIX}BUILD_")
"""Prefixes of variables that the project's other programs read: its tests, its tools, its Dagster integration."""


class Text(NamedTuple):
    """A value as text, and where it was found: a variable, or a variable and a file. The value may be a secret."""

    value: str
    source: str


def texts(environment: Mapping[str, str], variables: Iterable[str]) -> dict[str, Text]:
    """The text of each of ``variables`` that the environment sets, by variable.

    The name of a variable may be in any case, that of its twin may not. Reads files. Raises ``SettingsError``.
    """
    folder = environment.get(SECRETS_DIR)
    secrets = secret_files(folder) if folder and Path(folder).is_dir() else {}
    given = {name.upper(): value for name, value in environment.items()}
    found: dict[str, Text] = {}
    for variable in variables:
        if path := environment.get(f"{variable}_FILE"):
            found[variable] = _read(f"{variable}_FILE", Path(path))
        elif variable in given:
            found[variable] = Text(given[variable], variable)
        elif variable in secrets:
            found[variable] = _read(SECRETS_DIR, secrets[variable])
    return found


def secret_files(folder: str) -> dict[str, Path]:
    """The files of the folder, by their names in capitals. Raises ``SettingsError``."""
    try:
        return {path.name.upper(): path for path in Path(folder).iterdir()}
    except OSError as error:
        raise SettingsError(f"{SECRETS_DIR}: {error.strerror}: {folder}; give a readable folder") from None


def _read(variable: str, path: Path) -> Text:
    """The text of a file, without the byte order mark and the line end that editors leave."""
    try:
        text = path.read_text("utf-8-sig").strip()
    except OSError as error:
        raise SettingsError(f"{variable}: {error.strerror}: {path}; give a readable file") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{variable}: {path} is not UTF-8 text; save it as UTF-8") from None
    if not text:
        raise SettingsError(f"{variable}: {path} is empty; write the value into it")
    return Text(text, f"{variable} ({path})")


def unread(environment: Mapping[str, str], variables: set[str]) -> list[str]:
    """The names that look like our settings but that nothing reads: a line each, with the fix. ``variables``: those we read.

    Looks into the folder of secrets; blocks on nothing else.
    """
    lines = [why_unknown(*pair) for pair in unknown_variables(environment, variables).items()]
    folder = environment.get(SECRETS_DIR)
    if folder and not Path(folder).is_dir():
        lines.append(f"{SECRETS_DIR}: there is no folder {folder}; create it, or remove the variable")
    elif folder:
        twins = {os.path.realpath(environment.get(f"{name}_FILE", "")) for name in variables}
        files = [path.name for path in secret_files(folder).values() if os.path.realpath(path) not in twins]
        unknown = unknown_names(files, {name.lower() for name in variables}, set(), PREFIX)
        lines += [f"{SECRETS_DIR}: file {why_unknown(*pair)}" for pair in unknown.items()]
    return lines


def unknown_variables(names: Iterable[str], variables: set[str]) -> dict[str, str | None]:
    """As ``unknown_names``, for variables, their twins and the folder of secrets. Pure."""
    return unknown_names(names, variables, {f"{name}_FILE" for name in variables} | {SECRETS_DIR}, PREFIX)


def why_unknown(name: str, nearest: str | None) -> str:
    """Why ``name`` is refused, with the fix. Pure."""
    guess = f"; did you mean {nearest}? Rename it, or remove it" if nearest else "; remove it"
    return f"{name} is not a setting{guess}"


def unknown_names(names: Iterable[str], fields: set[str], exact: set[str], prefix: str) -> dict[str, str | None]:
    """Those of ``names`` that begin with ``prefix`` and that nothing reads, each with the most similar known name, if any.

    ``fields`` are known in any case of letters, ``exact`` only as they are written. Leaves out the names that the
    project's other programs read, and those that Kubernetes sets. Pure.
    """
    names = list(names)
    # compared without the prefix: all names share it, so it would make all of them similar
    known = {name[len(prefix) :].upper(): name for name in fields | exact}
    upper_fields = {name.upper() for name in fields}
    others = tuple(other for other in _OTHER_PROGRAMS if not prefix.startswith(other))
    nearest: dict[str, str | None] = {}
    for name in sorted(names):
        upper = name.upper()
        ours = upper.startswith(prefix) and not upper.startswith(others)
        if ours and upper not in upper_fields and name not in exact and not _set_by_kubernetes(name, names):
            similar = difflib.get_close_matches(upper.removeprefix(prefix), known, n=1)
            nearest[name] = known[similar[0]] if similar else None
    return nearest


def _set_by_kubernetes(name: str, names: Iterable[str]) -> bool:
    """Whether Kubernetes has set it for a service called tickloom or tickloom-…: it always sets a family of them."""
    services = {one.removesuffix("_SERVICE_HOST") for one in names if one.endswith("_SERVICE_HOST")}
    return any(
        name == f"{service}_PORT" or name.startswith((f"{service}_SERVICE_", f"{service}_PORT_"))
        for service in services
    )
