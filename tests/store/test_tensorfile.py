"""Weight files that are partly written during training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from disk import file_size_limit
from frostline.models import weights
from frostline.store import hashing, tensorfile
from frostline.store.tensorfile import Draft

FACTS = {"model": "small", "classes": ["ä", "b"], "size": 8, "resize": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
FACTS["interpolation"] = "bilinear"


def tensors() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=random).contiguous(memory_format=torch.channels_last),
        "fc.bias": torch.randn(3, generator=random),
        "fc.weight": torch.randn(3, 5, generator=random),
        "norm.num_batches_tracked": torch.tensor(7),
    }


@pytest.mark.parametrize("moving", [["fc.weight", "fc.bias"], ["conv.weight", "fc.weight"]])
def test_early_writes_do_not_change_the_file(tmp_path: Path, moving: list[str]) -> None:
    early, late = tensors(), tensors()
    moved = {name: late[name] + 1 for name in moving}
    tensorfile.save(tmp_path / "expected.safetensors", {**late, **moved}, FACTS)
    with Draft(tmp_path / "best.safetensors", early, FACTS) as draft:
        draft.begin({name: tensor for name, tensor in early.items() if name not in moving})
        digest = draft.finish(moved).result()
    assert (tmp_path / "best.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
    assert digest == hashing.of_file(tmp_path / "expected.safetensors")
    assert weights.metadata_of(tmp_path / "best.safetensors") == FACTS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "expected.safetensors"]


def test_draft_is_removed_if_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Draft(tmp_path / "best.safetensors", tensors(), FACTS) as draft:
        draft.begin({"conv.weight": tensors()["conv.weight"]})
        draft._aside.submit(lambda: None).result()  # waits for earlier writes
        assert list(tmp_path.iterdir()) == [tmp_path / ".best.safetensors.part"]
        raise RuntimeError("the run failed")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_raises_the_system_error(tmp_path: Path) -> None:
    with file_size_limit(100), pytest.raises(OSError, match="File too large") as caught:
        tensorfile.save(tmp_path / "best.safetensors", tensors(), FACTS)
    assert str(caught.value.filename).startswith(f"{tmp_path}/.best.safetensors.") and not [*tmp_path.iterdir()]
