"""The documents say what the code says, and their links lead somewhere. ``make docs`` writes the tables into their pages."""

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
from tickloom.core.model import TABLES, Reason
from tickloom.environment import PREFIX
from tickloom.integrations.dagster.resource import DagsterSettings
from tickloom.observe.metrics import Metrics
from tickloom.settings import Group, Settings, group_of
from tickloom.shapes import SHAPES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]
)
DECISIONS = [name for name in DOCUMENTS if name.startswith("docs/decisions/")]
REFERENCE = "docs/reference"


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
    metrics = Metrics()
    labels = {
        metric._name: tuple(metric._labelnames) for metric in vars(metrics).values() if hasattr(metric, "_labelnames")
    }

    def row(metric: Metric) -> tuple[str, ...]:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        return code(name), metric.type, ", ".join(map(code, labels[metric.name])), metric.documentation

    return table(("Name", "Type", "Labels", "Meaning"), [row(metric) for metric in metrics.registry.collect()])


def commands_table() -> str:
    """Every command with its options and its help."""
    root: Any = typer.main.get_command(app)
    rows: list[tuple[str, ...]] = []
    for name in root.list_commands(None):
        command = root.get_command(None, name)
        options = [parameter.opts[0] for parameter in command.params if parameter.name != "help"]
        rows.append((code(f"tickloom {name}"), ", ".join(map(code, options)), command.help))
    return table(("Command", "Options", "What it does"), rows)


def shapes_table() -> str:
    """Every message shape with what is special about it."""
    return table(("Shape", "What is special about it"), [(code(name), shape.summary) for name, shape in SHAPES.items()])


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    **{f"settings: {one}": (f"{REFERENCE}/settings.md", partial(settings_table, group=one)) for one in Group},
    "metrics": (f"{REFERENCE}/metrics.md", metrics_table),
    "commands": (f"{REFERENCE}/commands.md", commands_table),
    "shapes": (f"{REFERENCE}/message-shapes.md", shapes_table),
    "dagster settings": ("docs/how-to/dagster.md", lambda: settings_table(DagsterSettings, f"{PREFIX}DAGSTER_")),
}
"""By the name of its markers: the page of a table, and what the code says it should be."""


@pytest.mark.parametrize("name", GENERATED)
def test_tables_say_what_the_code_does(name: str) -> None:
    """Users do not find a setting that no page lists, and set one in vain that only a page lists."""
    page, make = GENERATED[name]
    found = between_markers(name).search(text_of(page))
    assert found, f"{page} lacks the markers <!-- {name} --> and <!-- /{name} -->; add them"
    assert found[2].strip() == make(), f"the table {name} in {page} is out of date; run `make docs`"


def test_every_column_is_described() -> None:
    """Users would have to guess what a column of their tables means."""
    page = text_of(f"{REFERENCE}/tables.md")
    for one in TABLES:
        section = page.partition(f"## {one.name}\n")[2].partition("\n## ")[0]
        assert [name for name in one.names if f"`{name}`" not in section] == [], one.name


def test_every_table_of_the_bookkeeping_is_described() -> None:
    """Users would find a table in their database that nobody explains."""
    page = text_of(f"{REFERENCE}/bookkeeping.md")
    statements = "".join(path.read_text() for path in (ROOT / "src/tickloom/store").rglob("*.sql"))
    names = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?tickloom\.(\w+)", statements))
    assert names
    assert [name for name in names if f"## tickloom.{name}\n" not in page] == []


def test_every_reason_is_described() -> None:
    """Users would not know what to fix when a dead letter names it."""
    page = text_of(f"{REFERENCE}/messages.md")
    assert re.findall(r"^\| `(\w+)` \| (?:has|is|lacks|belongs|was) ", page, re.MULTILINE) == [
        reason.value for reason in Reason
    ]


def test_the_readme_is_short() -> None:
    """Visitors leave before they find the two commands."""
    assert len(text_of("README.md").splitlines()) <= 150


def test_the_map_is_short() -> None:
    """Newcomers would read the code before they have found the end of its map."""
    assert len(text_of("ARCHITECTURE.md").splitlines()) <= 120


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_lead_somewhere(document: str) -> None:
    """Readers would follow a link to nothing."""
    text = text_of(document)
    paths = set(re.findall(r"`((?:src|tests|deploy|producer|docs)/[\w./-]+\.\w+)(?:::\w+)?`", text))
    modules = set(re.findall(r"`((?:core|store|source|observe|daemon|integrations|commands|bench)/[\w./]+)`", text))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [path for path in modules if not (ROOT / "src/tickloom" / path).exists()] == []
    assert [link for link in links_of(document) if not leads_somewhere(document, link)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_that_are_named_exist(document: str) -> None:
    """A promise would name a proof that nobody can find."""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(document)):
        assert f"def {name}(" in text_of(path), f"{path}::{name}"


def test_every_page_is_in_the_index() -> None:
    """Readers would never find a page that nothing leads to."""
    listed = {target_of("docs/index.md", link) for link in links_of("docs/index.md")}
    pages = {ROOT / name for name in DOCUMENTS if name.startswith("docs/")}
    assert pages - listed == {ROOT / "docs/index.md"}


@pytest.mark.parametrize("document", DECISIONS)
def test_decisions_have_one_form(document: str) -> None:
    """Readers could not tell what was decided from why, or find a decision by its number."""
    number = Path(document).name[:4]
    text = text_of(document)
    assert text.startswith(f"# {number}. ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Evidence"]


def test_decisions_are_numbered_without_a_gap() -> None:
    """Two decisions of one number could not be distinguished."""
    assert [int(Path(name).name[:4]) for name in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def text_of(path: str) -> str:
    """What a file of the project holds."""
    return (ROOT / path).read_text()


def links_of(document: str) -> list[str]:
    """The links to other files and to sections, as they are written."""
    return re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(document))


def target_of(document: str, link: str) -> Path:
    """The file that a link leads to."""
    path = link.partition("#")[0]
    return (ROOT / document).parent.joinpath(path).resolve() if path else ROOT / document


def leads_somewhere(document: str, link: str) -> bool:
    """Whether the file exists and has the section, if the link names one."""
    target, section = target_of(document, link), link.partition("#")[2]
    return target.exists() and (not section or section in anchors(target.read_text()))


def anchors(text: str) -> set[str]:
    """The sections of a page, as GitHub names them in links."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def between_markers(name: str) -> re.Pattern[str]:
    """The place of a generated table in its page, with its markers."""
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(\n?<!-- /{name} -->)", re.DOTALL)


def write_tables() -> None:
    """Write every generated table into its page."""
    for name, (page, make) in GENERATED.items():
        new = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
        (ROOT / page).write_text(between_markers(name).sub(lambda _, new=new: new, text_of(page)))


if __name__ == "__main__":
    write_tables()
