"""README's tables say what the code says. On a mismatch the expected table is printed, ready to paste."""

import re
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client.metrics_core import Metric
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from tickloom.cli import app
from tickloom.environment import PREFIX
from tickloom.integrations.dagster.resource import DagsterSettings
from tickloom.observe.metrics import Metrics
from tickloom.settings import Group, Settings, group_of
from tickloom.shapes import SHAPES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def code(text: str) -> str:
    """In Markdown's code marks; nothing stays nothing."""
    return f"`{text}`" if text else ""


def default_of(field: FieldInfo) -> str:
    """A setting's default as one would write it into the environment."""
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    match value:
        case None:
            return ""
        case SecretStr():
            return value.get_secret_value()
        case Enum():
            return str(value.value)
        case _:
            return str(value)


def settings_table(of: Any = Settings, prefix: str = PREFIX, group: Group | None = None) -> str:
    """Every setting, or those of a group, in the order of the code."""
    rows = [
        (code(prefix + name.upper()), code(default_of(field)), field.description or "")
        for name, field in of.model_fields.items()
        if group is None or group_of(name) is group
    ]
    return table(("Variable", "Default", "Meaning"), rows)


def metrics_table() -> str:
    """Every metric, in the order of the code."""
    told = Metrics()
    labels = {
        metric._name: tuple(metric._labelnames) for metric in vars(told).values() if hasattr(metric, "_labelnames")
    }

    def row(metric: Metric) -> tuple[str, ...]:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        return code(name), metric.type, ", ".join(map(code, labels[metric.name])), metric.documentation

    return table(("Name", "Type", "Labels", "Meaning"), [row(metric) for metric in told.registry.collect()])


def commands_table() -> str:
    """Every command with its options and its help."""
    root: Any = typer.main.get_command(app)
    rows: list[tuple[str, ...]] = []
    for name in root.list_commands(None):
        command = root.get_command(None, name)
        options = [parameter.opts[0] for parameter in command.params if parameter.name != "help"]
        rows.append((code(f"tickloom {name}"), ", ".join(map(code, options)), command.help))
    return table(("Command", "Options", "What it does"), rows)


GROUPS = {f"settings: {group}": partial(settings_table, group=group) for group in Group}
TABLES: dict[str, Callable[[], str]] = {**GROUPS, "metrics": metrics_table, "commands": commands_table}


@pytest.mark.parametrize("name", TABLES)
def test_readme_says_what_the_code_does(name: str) -> None:
    """A setting that is not in the README is not found; one that is only there is set in vain."""
    expected = TABLES[name]()
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", README, re.DOTALL)
    assert found, f"README.md lacks the markers <!-- {name} --> and <!-- /{name} -->"
    if found[1].strip() != expected:
        print(expected)
    assert found[1].strip() == expected, f"the table {name} of README.md is out of date; the right one is printed above"


def test_the_guide_to_dagster_says_what_the_code_does() -> None:
    """A limit that is not in the guide is not found."""
    expected = settings_table(DagsterSettings, f"{PREFIX}DAGSTER_")
    guide = (ROOT / "docs/dagster.md").read_text()
    found = re.search(r"<!-- dagster settings -->\n(.*?)\n?<!-- /dagster settings -->", guide, re.DOTALL)
    assert found
    if found[1].strip() != expected:
        print(expected)
    assert found[1].strip() == expected, (
        "the table of settings in docs/dagster.md is out of date; the right one is printed above"
    )


def test_every_shape_is_named() -> None:
    """A shape that nobody knows of is measured by nobody."""
    assert [name for name in SHAPES if f"`{name}`" not in README] == []


@pytest.mark.parametrize(
    "document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/dagster.md"]
)
def test_links_and_paths_lead_somewhere(document: str) -> None:
    """A map with places that are not there is worse than none."""
    text = (ROOT / document).read_text()
    links = {link.partition("#")[0] for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text)}
    paths = set(re.findall(r"`((?:src|tests|deploy|producer|sql|stages)/[\w./]+\.\w+)(?:::\w+)?`", text))
    beside = str(Path(document).parent)
    missing = [
        path for path in links | paths if not any((ROOT / at / path).exists() for at in ("", "src/tickloom", beside))
    ]
    assert not missing


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_tests_that_are_named_exist(document: str) -> None:
    """A proof that cannot be found proves nothing."""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / document).read_text()):
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
