"""Every setting from every source; what is set and would be ignored is refused by name."""

import json
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from tickloom.errors import SettingsError
from tickloom.libpq import DEFAULT_SOURCE, DEFAULT_URL
from tickloom.settings import GapPolicy, Group, Settings, group_of, ignored, load, unknown_variables

KUBERNETES = (
    *("TICKLOOM_SERVICE_HOST", "TICKLOOM_SERVICE_PORT", "TICKLOOM_SERVICE_PORT_HTTP", "TICKLOOM_PORT"),
    *("TICKLOOM_PORT_9464_TCP", "TICKLOOM_PORT_9464_TCP_ADDR", "TICKLOOM_PORT_9464_TCP_PROTO"),
    *("TICKLOOM_METRICS_SERVICE_HOST", "TICKLOOM_METRICS_SERVICE_PORT", "TICKLOOM_METRICS_PORT"),
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the developer's own daemon are not the tests'."""
    for name in list(os.environ):
        if name.startswith("TICKLOOM_"):
            monkeypatch.delenv(name)


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
        ("TICKLOOM_KAFKA_SASL_USER_NAME", "TICKLOOM_KAFKA_SASL_USERNAME"),
        ("TICKLOOM_KAFKA_SASL_PASWORD_FILE", "TICKLOOM_KAFKA_SASL_PASSWORD_FILE"),
        ("TICKLOOM_KAFKA_OPTION", "TICKLOOM_KAFKA_OPTIONS"),
        ("TICKLOOM_", None),
        ("TICKLOOM_XYZZY", None),
    ],
)
def test_a_misspelt_variable_is_named(name: str, nearest: str | None) -> None:
    """TICKLOOM_WINDOW_ROW=20 would give averages over five rows, and not a word about it."""
    assert unknown_variables({name: "1", "TICKLOOM_GAP_POLICY": "halt"}) == {name: nearest}
    (line,) = ignored({name: "1"})
    assert line.startswith(name)
    assert line.endswith("emove it")
    assert nearest is None or nearest in line


def test_what_is_read_is_known() -> None:
    """Warnings about what is right teach people to ignore warnings."""
    names = [f"TICKLOOM_{name.upper()}" for name in Settings.model_fields]
    others = ["TICKLOOM_SECRETS_DIR", "TICKLOOM_TEST_KAFKA", "tickloom_window_rows", "PATH", "DATABASE_URL"]
    assert unknown_variables([*names, *(f"{name}_FILE" for name in names), *others]) == {}


def test_what_kubernetes_sets_is_not_meant_for_us() -> None:
    """With a service called tickloom in the namespace, `check` would complain about every pod."""
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
    "database_url": "postgresql://another@host/database",
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
    """The documentation says so of every setting; for the Kafka options, which hold passwords, it was not true."""
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


def test_the_order_of_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("text", "reason"),
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
    text: bytes, reason: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error without the file's name would send people to the variable, and one with its text would show a password."""
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
    with pytest.raises(SettingsError, match=reason) as raised:
        load()
    assert str(raised.value).startswith(source)
    assert path in str(raised.value)
    assert "secret-word" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "reason"), [(b"\xff\xfe{\x00}\x00", "is not UTF-8 text"), (b"\xef\xbb\xbf\r\n", "is empty")]
)
def test_a_file_without_text(text: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some editors write other encodings; an empty secret is one that nobody has filled."""
    (tmp_path / "file").write_bytes(text)
    monkeypatch.setenv("TICKLOOM_DATABASE_PASSWORD_FILE", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match=f"TICKLOOM_DATABASE_PASSWORD_FILE: .*{reason}"):
        load()


@pytest.mark.parametrize("name", ["TICKLOOM_KAFKA_BOOTSTRAP_SERVERS", "TICKLOOM_DATABASE_URL"])
def test_an_empty_address(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `${DB_URL}` of a template that nobody has filled would mean whatever database the client library finds."""
    monkeypatch.setenv(name, "")
    with pytest.raises(SettingsError, match=name):
        load()


def test_a_misspelt_file_among_the_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password in it would be missing, and the daemon would blame the password."""
    for name in ("tickloom_database_pasword", "postgres_password", "..data", "tickloom_db"):
        (tmp_path / name).write_text("x")
    monkeypatch.setenv("TICKLOOM_DATABASE_URL_FILE", str(tmp_path / "tickloom_db"))
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match="tickloom_database_pasword is not a setting") as raised:
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
    """`drain(settings)` in somebody else's process would fail because of a variable that it does not use."""
    monkeypatch.setenv("TICKLOOM_WINDOW_ROW", "20")
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path / "missing"))
    assert Settings(kafka_group_id="mine").window_rows == 5  # type: ignore[call-arg]


def test_a_setting_that_is_gone_is_named() -> None:
    """Somebody who has set it would look for a misspelling."""
    (line,) = ignored({"TICKLOOM_RETRY_INITIAL_SECONDS": "1"})
    assert line == "TICKLOOM_RETRY_INITIAL_SECONDS is no longer a setting: tickloom chooses it; remove it"


def test_every_setting_has_a_group() -> None:
    """Forty settings in one heap hide the two that must be set."""
    groups = {name: group_of(name) for name in Settings.model_fields}
    assert {name for name, group in groups.items() if group is Group.MUST} == {
        "kafka_bootstrap_servers",
        "database_url",
    }
    assert set(groups.values()) == set(Group)


# --- properties of librdkafka -----------------------------------------------------------------------------------


def test_kafka_properties_from_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password would have to be written into JSON to be read from a file."""
    (tmp_path / "password").write_text("secret-word\n")
    (tmp_path / "tickloom_kafka_ssl_key_password").write_text("another-word\n")
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("TICKLOOM_KAFKA_OPTIONS", '{"client.rack": "a"}')
    monkeypatch.setenv("TICKLOOM_KAFKA_SASL_USERNAME", "me")
    monkeypatch.setenv("tickloom_kafka_security_protocol", "sasl_ssl")
    monkeypatch.setenv("TICKLOOM_KAFKA_SASL_PASSWORD_FILE", str(tmp_path / "password"))
    found = load()
    assert found.kafka_options == {
        "client.rack": "a",
        "sasl.username": "me",
        "security.protocol": "sasl_ssl",
        "sasl.password": "secret-word",
        "ssl.key.password": "another-word",
    }
    assert "secret-word" not in str(found.shown())


def test_wrong_properties_name_their_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that names the JSON sends people to a variable that they have not set."""
    monkeypatch.setenv("TICKLOOM_KAFKA_AUTO_OFFSET_RESET", "earliest")
    with pytest.raises(SettingsError, match=r"^TICKLOOM_KAFKA_AUTO_OFFSET_RESET: .*TICKLOOM_GAP_POLICY"):
        load()
    monkeypatch.delenv("TICKLOOM_KAFKA_AUTO_OFFSET_RESET")
    (tmp_path / "password").write_text("secret-word")
    monkeypatch.setenv("TICKLOOM_KAFKA_OPTIONS", '{"sasl.password": "another-word"}')
    monkeypatch.setenv("TICKLOOM_KAFKA_SASL_PASSWORD_FILE", str(tmp_path / "password"))
    with pytest.raises(SettingsError, match="different values") as raised:
        load()
    assert "TICKLOOM_KAFKA_SASL_PASSWORD_FILE" in str(raised.value)
    assert "sasl.password in TICKLOOM_KAFKA_OPTIONS" in str(raised.value)
    assert "word" not in str(raised.value).replace("password", "").replace("PASSWORD", "")


# --- the database -----------------------------------------------------------------------------------------------


def test_where_the_database_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows would go into another database than the one that the operator's other tools use."""
    steps: list[tuple[str, str, str, str]] = [
        ("PGHOST", "db", "postgresql://?host=db", "PGHOST"),
        ("PGUSER", "me", "postgresql://?host=db&user=me", "PGHOST, PGUSER"),
        ("DATABASE_URL", "postgres://a@b/c", "postgres://a@b/c", "DATABASE_URL"),
        ("TICKLOOM_DATABASE_URL", "postgresql://d@e/f", "postgresql://d@e/f", "TICKLOOM_DATABASE_URL"),
    ]
    assert (load().database_dsn(), load().database_source) == (DEFAULT_URL, DEFAULT_SOURCE)
    for variable, value, dsn, source in steps:
        monkeypatch.setenv(variable, value)
        assert (load().database_dsn(), load().database_source) == (dsn, source)
    (tmp_path / "url").write_text("postgresql://g@h/i\n")
    monkeypatch.setenv("TICKLOOM_DATABASE_URL_FILE", str(tmp_path / "url"))
    assert load().database_dsn() == "postgresql://g@h/i"
    assert load().database_source == f"TICKLOOM_DATABASE_URL_FILE ({tmp_path / 'url'})"


def test_the_address_from_the_folder_of_secrets_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DATABASE_URL that some platform sets would hide the secret that was mounted for tickloom."""
    (tmp_path / "tickloom_database_url").write_text("postgresql://a@b/c")
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgresql://d@e/f")
    assert load().database_dsn() == "postgresql://a@b/c"


@pytest.mark.parametrize(
    ("variable", "value", "dsn"),
    [
        ("TICKLOOM_DATABASE_URL", "postgresql://me@db/x", "postgresql://me:p%40ss@db/x"),
        ("DATABASE_URL", "postgresql://me:old@db/x", "postgresql://me:p%40ss@db/x"),
        ("PGHOST", "db", "postgresql://:p%40ss@?host=db"),
        ("PGSERVICE", "market", "postgresql://:p%40ss@?host=inner&password=old"),
    ],
)
def test_the_password_goes_with_every_address(
    variable: str, value: str, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password that was mounted as a secret would be used with one kind of address only."""
    (tmp_path / "service").write_text("[market]\nhost=inner\npassword=old\n")
    (tmp_path / "password").write_text("p@ss\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service"))
    monkeypatch.setenv("TICKLOOM_DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv(variable, value)
    assert load().database_dsn() == dsn
    assert "old" not in load().database_source


@pytest.mark.parametrize("url", ["", "mysql://me:secret-word@db/x", "postgresql+psycopg://me:secret-word@db/x", "db"])
def test_a_database_of_another_kind(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Platforms set DATABASE_URL for all programs, and some of these use another database."""
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(SettingsError, match=r"^DATABASE_URL") as raised:
        load()
    assert "secret-word" not in str(raised.value)
    monkeypatch.setenv("TICKLOOM_DATABASE_URL", "postgresql://me@db/x")
    assert load().database_dsn() == "postgresql://me@db/x"


def test_defaults() -> None:
    """Other programs and the documentation rely on them."""
    found = load()
    assert (found.kafka_bootstrap_servers, found.kafka_group_id) == ("localhost:9092", "tickloom")
    assert (found.prices_topic, found.volumes_topic, found.window_rows) == ("stock_prices", "stock_volumes", 5)
    assert found.database_dsn() == "postgresql://myuser:mypassword@localhost:5432/mydatabase"
    assert (found.http_host, found.http_port, found.gap_policy) == ("127.0.0.1", 9464, GapPolicy.HALT)
    assert (found.event_max_ahead_seconds, found.event_max_age_seconds) == (86_400, 31 * 86_400)


def test_secrets_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A password in the environment is a password in every crash report."""
    secret = tmp_path / "password"
    secret.write_text("p@ss/word\n")
    monkeypatch.setenv("TICKLOOM_DATABASE_URL", "postgresql://me@db:5432/x")
    monkeypatch.setenv("TICKLOOM_DATABASE_PASSWORD_FILE", str(secret))
    found = load()
    assert found.database_dsn() == "postgresql://me:p%40ss%2Fword@db:5432/x"
    assert "p@ss" not in repr(found)
    assert "p@ss" not in str(found.shown())
    monkeypatch.setenv("TICKLOOM_DATABASE_PASSWORD_FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match="TICKLOOM_DATABASE_PASSWORD_FILE"):
        load()


def test_secrets_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Container platforms mount secrets as files named like the setting."""
    (tmp_path / "tickloom_database_password").write_text("quiet")
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path))
    assert ":quiet@" in load().database_dsn()


@pytest.mark.parametrize(
    ("name", "value"), [("WINDOW_ROWS", "x"), ("HTTP_PORT", "70000"), ("KAFKA_OPTIONS", "{"), ("GAP_POLICY", "no")]
)
def test_wrong_settings_name_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A message that does not say which variable sends people guessing."""
    monkeypatch.setenv(f"TICKLOOM_{name}", value)
    with pytest.raises(SettingsError, match=f"TICKLOOM_{name}: "):
        load()
