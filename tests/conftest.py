"""Settings of every test: plain output and hypothesis profiles."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Two test processes share two cores, so a deadline would measure the neighbour.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    """Let no command under test see this terminal's width or colours."""
    os.environ.update(COLUMNS="100", LINES="40", NO_COLOR="1", TERM="dumb")
    os.environ.pop("FORCE_COLOR", None)
