"""What is asked for is computed once, comes back as it was, and is computed again where a disk has changed it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frostline.store import Store, Writer, open_store


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def counting(calls: list[int]) -> Callable[[Writer], dict[str, Any]]:
    def make(writer: Writer) -> dict[str, Any]:
        calls.append(1)
        writer.tensor("rows", (3, 4), torch.bfloat16)[1] = 2.5
        writer.tensor("none", (0, 7), torch.uint8)
        writer.tensor("flag", (), torch.bool).fill_(True)
        return {"pair": (1, 2)}

    return make


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", budget=10**6, say=said.append)


def test_what_was_made_is_found_by_the_next_and_is_the_same(store: Store, said: list[str]):
    calls: list[int] = []
    assert not store.has("pixels", key("a"))
    made = store.get("pixels", key("a"), counting(calls), about="digits")
    found = store.get("pixels", key("a"), counting(calls), about="digits")
    assert (made.made, found.made, len(calls), said) == (True, False, 1, [])
    assert store.has("pixels", key("a")) and not store.has("features", key("a"))
    for entry in (made, found):
        assert entry.meta == {"pair": [1, 2]}
        assert entry.tensors["rows"].tolist() == [[0] * 4, [2.5] * 4, [0] * 4]
        assert entry.tensors["none"].shape == (0, 7) and entry.tensors["flag"].item() is True


def test_without_a_store_everything_is_made_in_memory(tmp_path: Path, said: list[str]):
    store = open_store(enabled=False, path=str(tmp_path / "none"), budget_gb=1, say=said.append)
    calls: list[int] = []
    for _ in range(2):
        entry = store.get("pixels", key("a"), counting(calls), about="digits")
        assert entry.made and entry.meta == {"pair": [1, 2]} and entry.tensors["rows"].sum() == 10
    assert len(calls) == 2 and not (tmp_path / "none").exists() and store.items() == []
