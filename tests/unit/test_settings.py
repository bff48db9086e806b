"""Every setting from every source; what is set and would be ignored is refused by name."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from tickloom.errors import SettingsError
from tickloom.settings import Settings, ignored, load, unknown_variables

KUBERNETES = (
    *("TICKLOOM_SERVICE_HOST", "TICKLOOM_SERVICE_PORT", "TICKLOOM_SERVICE_PORT_HTTP", "TICKLOOM_PORT"),
    *("TICKLOOM_PORT_9464_TCP", "TICKLOOM_PORT_9464_TCP_ADDR", "TICKLOOM_PORT_9464_TCP_PROTO"),
    *("TICKLOOM_METRICS_SERVICE_HOST", "TICKLOOM_METRICS_SERVICE_PORT", "TICKLOOM_METRICS_PORT"),
)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TICKLOOM_WINDOW_ROW", "TICKLOOM_WINDOW_ROWS"),
        ("TICKLOOM_KAFKA_BOOTSTRAP_SERVER", "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS"),
        ("TICKLOOM_DATABASE_PASSWORD_FLIE", "TICKLOOM_DATABASE_PASSWORD_FILE"),
        ("TICKLOOM_SECRET_DIR", "TICKLOOM_SECRETS_DIR"),
        ("TICKLOOM_BATCH_MAX_MESAGES", "TICKLOOM_BATCH_MAX_MESSAGES"),
        ("tickloom_window_row", "TICKLOOM_WINDOW_ROWS"),
        (
            "tickloom_database_password_file",
            "TICKLOOM_DATABASE_PASSWORD_FILE",
        ),  # files are looked for in capitals alone
        ("TICKLOOM_PORT", "TICKLOOM_HTTP_PORT"),
        ("TICKLOOM_", None),
        ("TICKLOOM_XYZZY", None),
    ],
)
def test_a_misspelt_variable_is_named(name: str, nearest: str | None) -> None:
    """Who sets TICKLOOM_WINDOW_ROW=20 would get averages over five rows, and no word of it."""
    assert unknown_variables({name: "1", "TICKLOOM_GAP_POLICY": "halt"}) == {name: nearest}
    (line,) = ignored({name: "1"})
    assert line.startswith(name)
    assert line.endswith("emove it")
    assert nearest is None or nearest in line


def test_what_is_read_is_known() -> None:
    """A warning about what is right teaches people to read no warning."""
    names = [f"TICKLOOM_{name.upper()}" for name in Settings.model_fields]
    others = ["TICKLOOM_SECRETS_DIR", "TICKLOOM_TEST_KAFKA", "tickloom_window_rows", "PATH", "DATABASE_URL"]
    assert unknown_variables([*names, *(f"{name}_FILE" for name in names), *others]) == {}


def test_what_kubernetes_sets_is_not_meant_for_us() -> None:
    """With a service called tickloom in the namespace, `check` would find fault with every pod."""
    assert unknown_variables(KUBERNETES) == {}


@pytest.mark.parametrize("seconds", ["0.0001", "3000000", "inf", "nan"])
def test_a_time_limit_that_postgres_cannot_have(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be refused as bad data at every start, or be no limit at all."""
    monkeypatch.setenv("TICKLOOM_DATABASE_COMMAND_TIMEOUT_SECONDS", seconds)
    with pytest.raises(SettingsError, match="TICKLOOM_DATABASE_COMMAND_TIMEOUT_SECONDS"):
        load()


def test_a_folder_of_secrets_that_is_not_there(tmp_path: Path) -> None:
    """The password in it would be missing, and the daemon would blame the password."""
    assert ignored({"TICKLOOM_SECRETS_DIR": str(tmp_path)}) == []
    assert ignored({"TICKLOOM_SECRETS_DIR": ""}) == []
    (line,) = ignored({"TICKLOOM_SECRETS_DIR": str(tmp_path / "missing")})
    assert "TICKLOOM_SECRETS_DIR" in line
    assert str(tmp_path / "missing") in line


ANY_VALUE: dict[str, str] = {
    "kafka_options": '{"client.rack": "a"}',
    "database_password": "p@ss word",
    "gap_policy": "continue",
    "log_format": "json",
    "log_level": "debug",
    "reject_limit_ratio": "0.25",
}
"""Of the settings that take no number, and for which no name will do; none is the default."""


def another(name: str) -> str:
    """Text for a setting that is not its default."""
    if name.endswith("_partitioning"):
        return "daily"
    default = Settings.model_fields[name].default
    return ANY_VALUE.get(name) or (str(default + 1) if isinstance(default, int | float) else f"another-{name}")


def as_text(settings: Settings, name: str) -> str:
    """What a setting has, as one would write it."""
    value = getattr(settings, name)
    value = value.get_secret_value() if isinstance(value, SecretStr) else value
    return json.dumps(value) if isinstance(value, dict) else str(value)


def same(name: str, found: str) -> bool:
    wanted = another(name)
    return found == wanted or float(found) == float(wanted)


@pytest.mark.parametrize("name", Settings.model_fields)
@pytest.mark.parametrize(
    "around", ["{}", "{}\n", "\ufeff{}\r\n", "  {}\n\n"], ids=["bare", "newline", "windows", "blanks"]
)
@pytest.mark.parametrize("way", ["variable", "twin", "directory"])
def test_every_setting_from_every_source(
    name: str, around: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documents say it of every setting; for the Kafka options, where the passwords are, it was not so."""
    file = tmp_path / f"tickloom_{name}"
    file.write_bytes(around.format(another(name)).encode())
    match way:
        case "variable":
            monkeypatch.setenv(f"TICKLOOM_{name.upper()}", another(name))
        case "twin":
            monkeypatch.setenv(f"TICKLOOM_{name.upper()}_FILE", str(file))
        case _:
            monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path))
    assert same(name, as_text(load(), name))


def test_who_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is baked into an image would hide the file that an operator mounts for it."""
    (tmp_path / "TICKLOOM_WINDOW_ROWS").write_text("7")
    (tmp_path / "rows").write_text("9")
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path))
    assert load().window_rows == 7
    monkeypatch.setenv("tickloom_window_rows", "8")
    assert load().window_rows == 8
    monkeypatch.setenv("TICKLOOM_WINDOW_ROWS_FILE", str(tmp_path / "rows"))
    assert load().window_rows == 9


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"sasl.password": "secret-word",}', "not JSON"),
        (b'{"sasl.password": "secret-word"', "not JSON"),
        (b"sasl.password=secret-word", "not JSON"),
        (b'"secret-word"', "not a JSON object"),
        (b'["secret-word"]', "not a JSON object"),
        (b'{"group.id": "secret-word"}', "TICKLOOM_KAFKA_GROUP_ID"),
    ],
)
@pytest.mark.parametrize("way", ["variable", "twin", "directory"])
def test_wrong_options_say_where_they_come_from(
    text: bytes, told: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error without the file's name sends people to the variable, and one with its text tells a password."""
    file = tmp_path / "tickloom_kafka_options"
    file.write_bytes(text)
    source, path = "TICKLOOM_KAFKA_OPTIONS_FILE", str(file)
    match way:
        case "variable":
            source, path = "TICKLOOM_KAFKA_OPTIONS", ""
            monkeypatch.setenv(source, text.decode())
        case "twin":
            monkeypatch.setenv(source, path)
        case _:
            source = "TICKLOOM_SECRETS_DIR"
            monkeypatch.setenv(source, str(tmp_path))
    with pytest.raises(SettingsError, match=told) as raised:
        load()
    assert str(raised.value).startswith(source)
    assert path in str(raised.value)
    assert "secret-word" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"), [(b"\xff\xfe{\x00}\x00", "is not UTF-8 text"), (b"\xef\xbb\xbf\r\n", "is empty")]
)
def test_a_file_without_text(text: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What some editors write is no text to us; an empty secret is one that was never filled."""
    (tmp_path / "file").write_bytes(text)
    monkeypatch.setenv("TICKLOOM_DATABASE_PASSWORD_FILE", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match=f"TICKLOOM_DATABASE_PASSWORD_FILE: .*{told}"):
        load()


@pytest.mark.parametrize("name", ["TICKLOOM_KAFKA_BOOTSTRAP_SERVERS", "TICKLOOM_DATABASE_URL"])
def test_an_empty_address(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${DB_URL}` of a template that nobody has filled would mean whatever database the client library finds."""
    monkeypatch.setenv(name, "")
    with pytest.raises(SettingsError, match=name):
        load()


def test_a_misspelt_file_among_the_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password in it would be missing, and the daemon would blame the password."""
    for name in ("tickloom_database_pasword", "postgres_password", "..data", "tickloom_db"):
        (tmp_path / name).write_text("x")
    monkeypatch.setenv("TICKLOOM_DATABASE_URL_FILE", str(tmp_path / "tickloom_db"))
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match="tickloom_database_pasword is no setting") as raised:
        load()
    assert "tickloom_database_password?" in str(raised.value)
    assert "tickloom_db " not in str(raised.value)


def test_what_is_unknown_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Averages over five rows instead of twenty look right; a default database may even be there."""
    for name in KUBERNETES:
        monkeypatch.setenv(name, "tcp://10.0.0.1:9464")
    load()
    monkeypatch.setenv("TICKLOOM_WINDOW_ROW", "20")
    with pytest.raises(SettingsError, match="did you mean TICKLOOM_WINDOW_ROWS"):
        load()
    assert load(tolerant=True).window_rows == 5
    monkeypatch.delenv("TICKLOOM_WINDOW_ROW")
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match="there is no folder"):
        load()


def test_both_topics_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that names no variable sends people guessing."""
    monkeypatch.setenv("TICKLOOM_VOLUMES_TOPIC", "stock_prices")
    with pytest.raises(SettingsError, match="TICKLOOM_PRICES_TOPIC and TICKLOOM_VOLUMES_TOPIC are the same"):
        load()


def test_settings_that_are_made_by_hand_ask_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`drain(settings)` in somebody else's process would fail of a variable that is not its affair."""
    monkeypatch.setenv("TICKLOOM_WINDOW_ROW", "20")
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path / "missing"))
    assert Settings(kafka_group_id="mine").window_rows == 5  # type: ignore[call-arg]
