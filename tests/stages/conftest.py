"""What tests of MLflow share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without runs."""
    from stages import tracking

    tracking.is_installed()
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("empty store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file
