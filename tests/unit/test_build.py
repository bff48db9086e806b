"""What runs, as the metric says it."""

from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from tickloom import __version__, build


def test_what_runs() -> None:
    """After a bad rollout nobody could tell which replicas are new."""
    found = build.build_info({"TICKLOOM_BUILD_REVISION": "abc123"})
    assert found["version"] == __version__
    assert found["python"].startswith("3.")
    assert found["revision"] == "abc123"


@pytest.mark.parametrize(
    ("noted", "revision"),
    [
        ('{"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "def456"}}', "def456"),
        ('{"url": "file:///src", "dir_info": {"editable": true}}', ""),
        ("not JSON", ""),
        (None, ""),
    ],
)
def test_the_revision_that_pip_has_noted(
    noted: str | None, revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation from the repository would not say from which commit, or would not start."""
    if noted is not None:
        (tmp_path / "direct_url.json").write_text(noted)
    monkeypatch.setattr(build, "distribution", lambda _: PathDistribution(tmp_path))
    assert build.build_info({})["revision"] == revision
