"""Tests share two cores: one thread each; records and decoded images never go to the working store."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """Each test has a record store and a cache of decoded images of its own."""
    monkeypatch.setenv("INTRINSIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INTRINSIC_STORE", str(tmp_path / "records"))
    return tmp_path / "records"
