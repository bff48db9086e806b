"""The statements in the daemon's last line must fix what is wrong."""

import re

from tests.acceptance.world import World


def apply_fix(world: World, last: str) -> None:
    """Run the statements of the last line; then the log must load."""
    for statement in re.findall(r"(?:ALTER TABLE|DROP RULE) [^;…]+?(?=; | AND |, then|, or|$)", last):
        world.query(statement)
    world.drain()
    assert world.differences() == []
    assert world.count("tickloom.dead_letters") == 0
