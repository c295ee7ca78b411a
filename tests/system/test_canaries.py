"""A record is data: whatever is opened from elsewhere, nothing in it ever runs, and nothing outside is touched.

Every canary would make a folder if it ran, or give away a secret. All must stay silent.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file

from frostline.core import untrusted, validation
from frostline.core.config_keys import digest
from frostline.core.errors import UserError
from frostline.models.build import build
from frostline.report import predictions
from frostline.report.terminal import Screen
from frostline.runs import checks, predict, run_data, setup
from frostline.store.store import Store
from frostline.sweeps import recorded_runs
from frostline.sweeps.find_weights import found
from frostline.tracking import download, mirror
from frostline.training import checkpoint, state
from small import compose, last_checkpoint, plain_config

SECRET = "nobody-may-see-this"
CANARIES: dict[str, Callable[[Nest], object]] = {}


class Canary:
    """An object whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@dataclass
class Nest:
    """Where a canary lives: `ran` appears if it runs; outside of `folder` nothing may be touched."""

    root: Path

    @property
    def ran(self) -> Path:
        return self.root / "ran"

    @property
    def folder(self) -> Path:
        (self.root / "record").mkdir(exist_ok=True)
        return self.root / "record"

    def pickle(self, name: str, *, how: str = "pickle") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"fc.weight": Canary(self.ran)}
        if how == "pickle":
            path.write_bytes(pickle.dumps(state, protocol=2))
        elif how == "raw":
            path.write_bytes(pickle.dumps(Canary(self.ran)))
        else:
            torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
        return path

    def run(self, **changes: Any) -> Path:
        """Return the folder of a finished run whose record says `changes`."""
        values = {key: value for key, value in plain_config("epochs=1").items() if key != "hydra"}
        result = {"job": 0, "name": "a run", "folder": str(self.folder), "run_id": None, "status": "FINISHED"}
        rest = {"reason": None, "choices": {}, "metrics": {"best/val_accuracy": 0.5, "test/accuracy": 0.5}}
        (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
        (self.folder / "result.json").write_text(json.dumps({**result, **rest, **changes}))
        (self.folder / "metrics.jsonl").write_text('{"epoch": 1, "val/loss": 1.0}\n')
        save_file({"fc.weight": torch.zeros(1)}, self.folder / "best.safetensors")
        return self.folder

    def config(self, *lines: str, **replaced: str) -> Path:
        """Return a run whose config has more lines, or other values (as YAML) of the keys `replaced`."""
        path = self.run() / "config.yaml"
        kept = [line for line in path.read_text().splitlines() if line.split(":")[0] not in replaced]
        path.write_text("\n".join([*kept, *(f"{key}: {value}" for key, value in replaced.items()), *lines]) + "\n")
        return path


def canary(function: Callable[[Nest], object]) -> Callable[[Nest], object]:
    CANARIES[function.__name__.replace("_", " ")] = function
    return function


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def weights_refused(path: Path) -> None:
    refused(lambda: build("resnet18", weights=str(path), num_classes=2, seed=0))


# --- pickles in every file that is opened


@canary
def a_pickle_as_weights_in_pt(nest: Nest) -> None:
    weights_refused(nest.pickle("w.pt"))


@canary
def a_raw_pickle_as_weights_in_pth(nest: Nest) -> None:
    weights_refused(nest.pickle("w.pth", how="raw"))


@canary
def weights_saved_by_torch_with_a_pickle_inside(nest: Nest) -> None:
    weights_refused(nest.pickle("w.pt", how="zip"))


@canary
def weights_in_the_old_format_of_torch(nest: Nest) -> None:
    weights_refused(nest.pickle("w.pth", how="old"))


@canary
def a_pickle_called_safetensors(nest: Nest) -> None:
    weights_refused(nest.pickle("w.safetensors"))


@canary
def a_torch_archive_whose_second_pickle_is_evil(nest: Nest) -> None:
    good = nest.folder / "good.pt"
    torch.save({"fc.weight": torch.zeros(2)}, good)
    evil = nest.folder / "evil.pt"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(evil, "w") as target:
        for name in source.namelist():
            content = pickle.dumps(Canary(nest.ran)) if name.endswith("data.pkl") else source.read(name)
            target.writestr(name, content)
    weights_refused(evil)


@canary
def a_pickle_as_best_weights_of_a_run_to_predict_with(nest: Nest) -> None:
    nest.run()
    nest.pickle("best.safetensors")
    with found(str(nest.folder)) as run:
        refused(lambda: predict.load(run.folder, device="cpu"))


@canary
def a_pickle_as_best_weights_of_a_run_to_rerun(nest: Nest) -> None:
    nest.run()
    path = nest.pickle("best.safetensors")
    (run,) = recorded_runs.find(str(nest.folder), uri="sqlite:///none", folder=nest.root)
    assert run.comparable.weights == hashlib.sha256(path.read_bytes()).hexdigest()


@canary
def a_pickle_as_test_predictions(nest: Nest) -> None:
    nest.pickle("test_predictions.safetensors")
    assert predictions.read(str(nest.folder)) is None


def _sealed_checkpoint(nest: Nest, path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".sha256").write_text(f"{digest}  {path.name}\n")
    lines: list[str] = []
    assert last_checkpoint(nest.folder, lines.append) is None
    assert len(lines) == 1


@canary
def a_pickle_as_a_checkpoint_with_the_right_sha256(nest: Nest) -> None:
    _sealed_checkpoint(nest, nest.pickle("checkpoint/000001.safetensors"))


@canary
def a_checkpoint_saved_by_torch_with_the_right_sha256(nest: Nest) -> None:
    _sealed_checkpoint(nest, nest.pickle("checkpoint/000001.safetensors", how="zip"))


@canary
def a_sha256_that_is_a_pickle(nest: Nest) -> None:
    path = checkpoint.save(nest.folder / "checkpoint", {"a": torch.zeros(2)}, {})
    path.with_suffix(".sha256").write_bytes(pickle.dumps(Canary(nest.ran)))
    assert last_checkpoint(nest.folder, lambda line: None) is None


@canary
def a_checkpoint_whose_facts_name_code(nest: Nest) -> None:
    facts = {"_target_": "os.mkdir", "position": "${oc.env:SECRET}", "epochs": [], "optimizer": {}}
    checkpoint.save(nest.folder / "checkpoint", {"other/kind": torch.zeros(2)}, facts)
    found = last_checkpoint(nest.folder, print)
    assert found is not None
    assert found[1] == facts
    module = torch.nn.Linear(2, 2)
    learner = state.Learner(module, torch.optim.SGD(module.parameters()), None, frozenset(module.state_dict()))
    with pytest.raises(state.CheckpointMismatch):
        state.restore(learner, *found)


def _poisoned_entry(nest: Nest, poison: Callable[[Path], None]) -> None:
    key = hashlib.sha256(b"key").hexdigest()

    def make(writer: Any) -> dict[str, Any]:
        writer.tensor("rows", (4,), torch.float32)
        return {}

    said: list[str] = []
    Store(nest.folder, budget=10**9, say=said.append).get("pixels", key, make, about="it")
    poison(nest.folder / "pixels" / key[:2] / key)
    again = Store(nest.folder, budget=10**9, say=said.append).get("pixels", key, make, about="it")
    assert again.made
    assert torch.equal(again.tensors["rows"], torch.zeros(4))


@canary
def a_pickle_as_a_tensor_of_the_store(nest: Nest) -> None:
    _poisoned_entry(nest, lambda place: (place / "rows").write_bytes(pickle.dumps(Canary(nest.ran))) and None)


@canary
def a_pickle_as_the_seal_of_the_store(nest: Nest) -> None:
    _poisoned_entry(nest, lambda place: (place / "entry.jsonl").write_bytes(pickle.dumps(Canary(nest.ran))) and None)


@canary
def an_entry_of_the_store_that_names_a_file_outside(nest: Nest) -> None:
    (nest.root / "outside").write_bytes(b"\1" * 16)

    def poison(place: Path) -> None:
        facts = json.loads((place / "entry.jsonl").read_text().splitlines()[0])
        facts["tensors"] = {"../../../../outside": facts["tensors"]["rows"]}
        text = json.dumps(facts)
        (place / "entry.jsonl").write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")

    _poisoned_entry(nest, poison)


@canary
def a_poisoned_hub_cache(nest: Nest) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "get_dir", lambda: str(nest.folder))
        nest.pickle("checkpoints/resnet18-f37072fd.pth", how="zip")
        refused(lambda: build("resnet18", weights="IMAGENET1K_V1", num_classes=2, seed=0))


def _data_refused(nest: Nest, *overrides: str) -> None:
    config = compose(*overrides, f"data.root={nest.folder}", "data.download=false", "store.enabled=false")
    with pytest.raises((UserError, RuntimeError)):
        run_data.load_data(
            config, setup.input_of(config, config.model.weights), run_data.store_of(config, print), Screen()
        )


@canary
def pickles_as_the_batches_of_cifar10(nest: Nest) -> None:
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        nest.pickle(f"cifar-10-batches-py/{name}")
    _data_refused(nest, "data=cifar10")


@canary
def pickles_as_images(nest: Nest) -> None:
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            nest.pickle(f"{split}/{label}/image.png")
            nest.pickle(f"{split}/{label}/other.tiff", how="zip")
    _data_refused(nest, "data=image_folder")


# --- code in configs

CODE = {
    "a target at the top": "_target_: os.mkdir",
    "a target with arguments": "extra: {_target_: os.mkdir, _args_: [RAN]}",
    "a tag of a python call": "extra: !!python/object/apply:os.mkdir [RAN]",
    "a tag of a python object": "extra: !!python/object:frostline.config.Config {}",
    "a tag of a python name": "extra: !!python/name:os.mkdir",
    "a tag of a python module": "extra: !!python/module:os",
    "a tag of our own": "extra: !canary RAN",
    "an environment variable": "extra: ${oc.env:SECRET}",
    "a resolver of somebody's": "extra: ${canary:RAN}",
    "a resolver of ours": "extra: ${project_root:}",
    "an interpolation in a key": "'${canary:RAN}': 1",
    "a node interpolation": "extra: ${lr}",
    "a key that nobody knows": "extra: 1",
    "aliases that unfold": "a: &a [1]\nb: &b [*a, *a]\nextra: [*b, *b]",
    "lists as deep as a well": "extra: " + "[" * 3000 + "]" * 3000,
    "not a number": "lr: .nan",
    "a date": "extra: 2024-01-01",
    "bytes": "extra: !!binary aGVsbG8=",
    "two documents": "---\nlr: 1",
}
OPTIONS = {
    "a target in the options of the optimizer": ("optimizer", "{name: sgd, options: {_target_: os.mkdir}}"),
    "a resolver in the options of the data": ("data", "{options: {root: '${oc.env:SECRET}'}}"),
    "a resolver in the name of the weights": ("model", "{name: resnet18, weights: '${oc.env:SECRET}'}"),
}


def _config_refused(nest: Nest, *lines: str, **replaced: str) -> None:
    path = nest.config(*(line.replace("RAN", str(nest.ran)) for line in lines), **replaced)
    refused(lambda: validation.read_config(path))
    refused(lambda: recorded_runs.configs_of([untrusted.config(path)], [])[0])


for _name, _line in CODE.items():
    CANARIES[f"a config with {_name}"] = lambda nest, line=_line: _config_refused(nest, line)  # type: ignore[misc]
for _name, (_key, _value) in OPTIONS.items():
    CANARIES[f"a config with {_name}"] = lambda nest, key=_key, value=_value: _config_refused(nest, **{key: value})  # type: ignore[misc]


@canary
def a_config_of_a_gigabyte(nest: Nest) -> None:
    path = nest.config()
    with path.open("r+b") as file:
        file.truncate(10**9)
    refused(lambda: validation.read_config(path))


NAMES = {
    "an optimizer that is a function of torch": "optimizer.name=lr_scheduler",
    "an optimizer with a path": "optimizer.name=../../os.system",
    "a model that is no model": "model.name=os.system",
    "a model that is a file": "model.name=../../../etc/passwd",
    "a data set that is a builtin": "data.source=__import__",
    "a data set that is a module": "data.source=utils",
    "a data set that is a base class": "data.source=VisionDataset",
}


def _name_refused(nest: Nest, override: str) -> None:
    refused(lambda: checks.check(compose("model.weights=null", override)))


for _name, _line in NAMES.items():
    CANARIES[_name] = lambda nest, line=_line: _name_refused(nest, line)  # type: ignore[misc]


# --- paths, sizes and numbers in records


def _fetch_refused(nest: Nest, run_id: str, name: str) -> None:
    refused(lambda: download.fetch_artifact(f"sqlite:///{nest.root}/none.db", run_id, name, nest.folder))


@canary
def an_artifact_that_climbs_out(nest: Nest) -> None:
    _fetch_refused(nest, "0" * 32, "../../ran")


@canary
def an_artifact_at_an_absolute_path(nest: Nest) -> None:
    _fetch_refused(nest, "0" * 32, str(nest.ran))


@canary
def an_artifact_with_backslashes(nest: Nest) -> None:
    _fetch_refused(nest, "0" * 32, "..\\..\\ran")


@canary
def a_run_id_that_is_a_path(nest: Nest) -> None:
    _fetch_refused(nest, "../../../etc", "passwd")
    refused(lambda: recorded_runs.find("runs:/../../etc/passwd", uri="sqlite:///none", folder=nest.folder))


@canary
def a_journal_that_hands_out_a_file_of_this_machine(nest: Nest) -> None:
    (nest.root / "secret").write_text(SECRET)
    (nest.folder / "link").symlink_to(nest.root / "secret")
    sent: list[str] = []

    class Client:
        tracking_uri = "none"

        def get_run(self, run_id: str) -> Any:
            raise AssertionError("asked where to send it")

        def log_artifact(self, run_id: str, path: str, inside: str | None) -> None:
            sent.append(path)

    handing = mirror.Mirror(nest.folder)
    for path in ("../secret", str(nest.root / "secret"), "link"):
        assert not list(handing._copies(Client(), "0" * 32, [(path, None)]))  # type: ignore[arg-type]
    assert not sent


@canary
def a_result_that_claims_another_folder(nest: Nest) -> None:
    nest.run(folder="/etc")
    (run,) = recorded_runs.find(str(nest.folder), uri="sqlite:///none", folder=nest.root)
    assert run.identity == str(nest.folder.resolve())


@canary
def a_result_with_more_than_a_result(nest: Nest) -> None:
    nest.run(__class__="os.system", _target_="os.mkdir")
    refused(lambda: recorded_runs.find(str(nest.folder), uri="sqlite:///none", folder=nest.root))


@canary
def a_sweep_whose_folders_climb_out(nest: Nest) -> None:
    nest.run()
    (nest.root / "sweep").mkdir()
    (nest.root / "sweep" / "sweep.json").write_text(json.dumps({"tracker": None, "runs": [{"folder": "../record"}]}))
    refused(lambda: recorded_runs.find(str(nest.root / "sweep"), uri="sqlite:///none", folder=nest.root))


@canary
def metrics_that_are_no_numbers(nest: Nest) -> None:
    for value in ("NaN", "Infinity", "-Infinity", "1e999"):
        nest.run()
        (nest.folder / "metrics.jsonl").write_text(f'{{"epoch": 1, "val/loss": {value}}}\n')
        refused(lambda: recorded_runs.find(str(nest.folder), uri="sqlite:///none", folder=nest.root))


@canary
def metrics_of_a_terabyte(nest: Nest) -> None:
    nest.run()
    with (nest.folder / "metrics.jsonl").open("r+b") as file:
        file.truncate(10**12)
    refused(lambda: recorded_runs.find(str(nest.folder), uri="sqlite:///none", folder=nest.root))


@canary
def a_provenance_with_packages_and_a_command(nest: Nest) -> None:
    nest.run()
    (nest.folder / "packages.json").write_text(json.dumps({"evil": f"; mkdir {nest.ran}"}))
    evil = {"command": f"mkdir {nest.ran}", "source": "${canary:x}"}
    (nest.folder / "provenance.json").write_text(json.dumps(evil))
    (run,) = recorded_runs.find(str(nest.folder), uri="sqlite:///none", folder=nest.root)
    assert run.comparable.environment["packages.evil"] == f"; mkdir {nest.ran}"  # shown, and no more


@canary
def a_patch_on_record(nest: Nest) -> None:
    nest.run()
    patch = f"--- /dev/null\n+++ b/../ran\n@@ -0,0 +1 @@\n+{nest.ran}\n"
    (nest.folder / "source.patch").write_text(patch)
    recorded_runs.find(str(nest.folder), uri="sqlite:///none", folder=nest.root)
    assert (nest.folder / "source.patch").read_text() == patch


# --- the test


@pytest.fixture(autouse=True)
def _tempted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that would make a canary sing is in place."""
    monkeypatch.setenv("SECRET", SECRET)
    OmegaConf.register_new_resolver("canary", os.mkdir, replace=True)
    yaml.add_constructor("!canary", lambda loader, node: Path(node.value).mkdir(), yaml.Loader)
    yield
    OmegaConf.clear_resolver("canary")


SUNG: dict[str, bool] = {}


@pytest.mark.parametrize("name", CANARIES)
def test_a_record_never_runs(name: str, tmp_path: Path) -> None:
    nest = Nest(tmp_path)
    try:
        CANARIES[name](nest)
    finally:
        SUNG[name] = nest.ran.exists() or Path("ran").exists()
    assert not SUNG[name]


def test_a_record_without_a_canary_is_taken(tmp_path: Path) -> None:
    path = Nest(tmp_path).config()
    assert validation.read_config(path) == compose("epochs=1")
    assert digest(recorded_runs.configs_of([untrusted.config(path)], [])[0]) == digest(compose("epochs=1"))


def test_a_canary_would_be_heard(tmp_path: Path) -> None:
    """The temptations are real: what reads records carelessly runs them."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "one")))
    torch.load(Nest(tmp_path).pickle("w.pt", how="zip"), weights_only=False)
    yaml.load(f"!!python/object/apply:os.mkdir [{tmp_path / 'three'}]", yaml.UnsafeLoader)
    OmegaConf.to_container(OmegaConf.create({"a": f"${{canary:{tmp_path / 'four'}}}"}), resolve=True)
    assert all((tmp_path / name).exists() for name in ("one", "ran", "three", "four"))


def test_at_least_25_canaries_were_tried_and_all_were_silent(capsys: pytest.CaptureFixture[str]) -> None:
    if len(SUNG) < len(CANARIES):
        pytest.skip("not all of them were tried")
    with capsys.disabled():
        print(f"\n{sum(not sung for sung in SUNG.values())} of {len(SUNG)} canaries silent")  # noqa: T201
    assert len(SUNG) >= 25
    assert not any(SUNG.values())
