"""The columns of the embedded log as they stand in its file."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="session")
def tiny_columns() -> dict[str, list[Any]]:
    return pq.read_table(str(files("defer") / "data" / "tiny.parquet")).to_pydict()
