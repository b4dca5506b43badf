"""The words of the options of the commands that share, apart from what takes time to load."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """How much is taken away: nothing, what tells of a host, or well-known names too."""

    none = "none"
    default = "default"
    all = "all"


class Form(StrEnum):
    """What a recording is made into."""

    duckdb = "duckdb"
    parquet = "parquet"
    csv = "csv"
    perfetto = "perfetto"
