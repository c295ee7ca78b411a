"""With `save_weights=learned`, a run's weights and the sweep's shared start make up the complete weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from frostline.models import base_weights, weights
from frostline.records import provenance
from frostline.records.layout import BEST
from frostline.runs import network_cache, run
from frostline.store import hashing
from small import SMALL, TINY, compose, execute_run

VIT = ("model=timm", "model.name=test_vit", "model.weights=null", "model.image_size=32", "data.limit=16")


def execute(sweep: Path, name: str, *overrides: str) -> Path:
    """Carry out a run without a cached network and return its weights file."""
    network_cache._kept = None
    execute_run(compose(*SMALL, *overrides), sweep / name, sweep=sweep)
    return sweep / name / BEST


def bases(sweep: Path) -> list[Path]:
    return sorted((sweep / "weights").glob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (*TINY, "freeze=head"),
        (*TINY, "freeze=head", "train.ema_decay=0.9"),
        (*TINY, "freeze=norm", "train.ema_decay=0.9"),
        (*TINY, "freeze=norm", "freeze_mode.norm_stats=frozen"),
        (*TINY, "freeze=bias", "train.patience=1"),
        (*TINY, "freeze=first_stage"),
        (*TINY, "freeze=last_two_stages"),
        (*TINY, "freeze=lora"),
        (*TINY, "freeze=adapter"),
        (*TINY, "freeze=probe"),
        (*VIT, "freeze=prompt"),
        (*VIT, "freeze=ia3"),
    ],
    ids=" ".join,
)
def test_learned_weights_and_base_make_up_the_complete_file(tmp_path: Path, options: tuple[str, ...]) -> None:
    whole = execute(tmp_path, "whole", *options)
    learned = execute(tmp_path, "learned", *options, "save_weights=learned")
    (base,) = bases(tmp_path)
    assert base_weights.named(learned) == base.stem
    own, began, ends = load_file(learned), load_file(base), load_file(whole)
    assert own.keys() < ends.keys() == own.keys() | began.keys()
    assert weights.whole(learned, tmp_path).read_bytes() == whole.read_bytes()
    recorded = provenance.read(learned.parent)["weights"]
    assert recorded["final"] == hashing.of_file(learned)
    assert recorded["initial"] == provenance.read(whole.parent)["weights"]["initial"]


@pytest.mark.parametrize("mode", ["gradual", "layer_decay"])
def test_modes_that_change_all_weights_save_all(tmp_path: Path, mode: str) -> None:
    learned = execute(tmp_path, "learned", *TINY, f"freeze={mode}", "save_weights=learned")
    whole = execute(tmp_path, "whole", *TINY, f"freeze={mode}")
    assert learned.read_bytes() == whole.read_bytes() and not bases(tmp_path)


def test_knn_saves_no_weights(tmp_path: Path) -> None:
    assert not execute(tmp_path, "0", *TINY, "freeze=knn", "save_weights=learned").exists() and not bases(tmp_path)


@pytest.mark.slow
def test_runs_of_one_network_share_a_base(tmp_path: Path) -> None:
    kinds = ("freeze=head", "freeze=head seed=1", "freeze=bias", "freeze=lora", "freeze=adapter")
    for number, overrides in enumerate(kinds):
        execute(tmp_path, str(number), "save_weights=learned", "epochs=1", *overrides.split())
    (base,) = bases(tmp_path)
    assert base.stat().st_size > 25 * (tmp_path / "0" / BEST).stat().st_size
    execute(tmp_path, "other", *TINY, "save_weights=learned")
    assert len(bases(tmp_path)) == 2


def test_single_run_has_the_base_in_its_folder(tmp_path: Path) -> None:
    execute_run(compose(*SMALL, *TINY, "save_weights=learned"), tmp_path / "alone")
    moved = Path(shutil.move(tmp_path / "alone", tmp_path / "moved"))
    assert len(bases(moved)) == 1 and len(weights.read(moved / BEST)) > len(load_file(moved / BEST))


def test_resumed_run_keeps_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*TINY, "save_weights=learned", "freeze=bias")
    expected = execute(tmp_path / "calm", "0", *options).read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "conclude", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute(tmp_path, "0", *options)
    (base,) = bases(tmp_path)
    written = base.stat()
    assert not (tmp_path / "0" / BEST).exists()
    assert execute(tmp_path, "0", *options).read_bytes() == expected
    assert base.stat() == written and len(weights.read(tmp_path / "0" / BEST)) > len(load_file(tmp_path / "0" / BEST))
