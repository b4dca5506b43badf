"""What the differential tests compare with."""

import pytest

from tests.recorder.support.ss_oracle import Oracle


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    """Return the installed ss."""
    installed = Oracle.installed()
    if installed is None:
        pytest.skip("needs ss (iproute2)")
    return installed
