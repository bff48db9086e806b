"""Roles with few rights, and what ``check`` says about them."""

import json
import uuid
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

from tests.acceptance.world import World


def login(world: World, *options: str) -> str:
    """A new role that may log in, with ``ALTER ROLE`` options; its name."""
    name = f"r_{uuid.uuid4().hex[:12]}"
    world.query(f"CREATE ROLE {name} LOGIN PASSWORD 'weak'")
    for option in options:
        world.query(f"ALTER ROLE {name} {option}")
    return name


def as_role(world: World, name: str) -> World:
    """The same world for a daemon with this role."""
    parts = urlsplit(world.database_url)
    url = urlunsplit(parts._replace(netloc=f"{name}:weak@{parts.hostname}:{parts.port}"))
    return replace(world, settings={**world.settings, "TICKLOOM_DATABASE_URL": url})


def found_bad(world: World) -> dict[str, str]:
    """What ``check`` finds: the details by the name of what is bad."""
    done = world.tickloom("check", "--json")
    bad = {each["what"]: each["detail"] for each in json.loads(done.stdout) if not each["good"]}
    assert done.returncode == (3 if bad else 0), done.stdout
    return bad


def type_grants(world: World, detail: str) -> None:
    """Run the statements that ``check`` has printed, as they stand."""
    for grant in detail.partition(" type: ")[2].split("; "):
        world.query(grant)
