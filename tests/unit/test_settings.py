"""What is set and would be ignored is named."""

from pathlib import Path

import pytest

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
