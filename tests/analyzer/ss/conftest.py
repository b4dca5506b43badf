"""What the differential tests compare with."""

from tests.recorder.conftest import oracle

__all__ = ["oracle"]
