"""Records from elsewhere are data: opening them runs no code, and reads and writes nothing outside.

Every canary would create a folder if it ran, or reveal a secret. None may be triggered.
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

from canary import Canary
from frostline.core import untrusted, validation
from frostline.core.config_keys import digest
from frostline.core.errors import UserError
from frostline.models.build import build
from frostline.report import predictions
from frostline.report.terminal import Screen
from frostline.runs import checks, predict, run_data, setup
from frostline.store.store import Store
from frostline.sweeps import recorded_configs, recorded_runs
from frostline.sweeps.find_weights import found
from frostline.tracking import download, mirror
from frostline.training import checkpoint, state
from small import compose, last_checkpoint, plain_config

SECRET = "must-not-be-revealed"
CANARIES: dict[str, Callable[[Place], object]] = {}


@dataclass
class Place:
    """The place of a canary: `ran` exists if it was triggered; nothing outside `folder` may change."""

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
        """Return the folder of a finished run whose result has `changes`."""
        values = {key: value for key, value in plain_config("epochs=1").items() if key != "hydra"}
        result = {"job": 0, "name": "a run", "folder": str(self.folder), "run_id": None, "status": "FINISHED"}
        rest = {"reason": None, "choices": {}, "metrics": {"best/val_accuracy": 0.5, "test/accuracy": 0.5}}
        (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
        (self.folder / "result.json").write_text(json.dumps({**result, **rest, **changes}))
        (self.folder / "metrics.jsonl").write_text('{"epoch": 1, "val/loss": 1.0}\n')
        save_file({"fc.weight": torch.zeros(1)}, self.folder / "best.safetensors")
        return self.folder

    def config(self, *lines: str, **replaced: str) -> Path:
        """Return the config file of a run with additional lines, or with other values (YAML) of the keys `replaced`."""
        path = self.run() / "config.yaml"
        kept = [line for line in path.read_text().splitlines() if line.split(":")[0] not in replaced]
        path.write_text("\n".join([*kept, *(f"{key}: {value}" for key, value in replaced.items()), *lines]) + "\n")
        return path


def canary(function: Callable[[Place], object]) -> Callable[[Place], object]:
    CANARIES[function.__name__.replace("_", " ")] = function
    return function


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def weights_refused(path: Path) -> None:
    refused(lambda: build("resnet18", weights=str(path), num_classes=2, seed=0))


# --- pickles in every kind of file


@canary
def a_pickle_as_weights_in_pt(place: Place) -> None:
    weights_refused(place.pickle("w.pt"))


@canary
def a_raw_pickle_as_weights_in_pth(place: Place) -> None:
    weights_refused(place.pickle("w.pth", how="raw"))


@canary
def weights_saved_by_torch_with_a_pickle(place: Place) -> None:
    weights_refused(place.pickle("w.pt", how="zip"))


@canary
def weights_in_the_old_torch_format(place: Place) -> None:
    weights_refused(place.pickle("w.pth", how="old"))


@canary
def a_pickle_called_safetensors(place: Place) -> None:
    weights_refused(place.pickle("w.safetensors"))


@canary
def a_torch_archive_with_a_replaced_pickle(place: Place) -> None:
    good = place.folder / "good.pt"
    torch.save({"fc.weight": torch.zeros(2)}, good)
    evil = place.folder / "evil.pt"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(evil, "w") as target:
        for name in source.namelist():
            content = pickle.dumps(Canary(place.ran)) if name.endswith("data.pkl") else source.read(name)
            target.writestr(name, content)
    weights_refused(evil)


@canary
def a_pickle_as_best_weights_of_a_run_to_predict_with(place: Place) -> None:
    place.run()
    place.pickle("best.safetensors")
    with found(str(place.folder)) as run:
        refused(lambda: predict.load(run.folder, device="cpu"))


@canary
def a_pickle_as_best_weights_of_a_run_to_rerun(place: Place) -> None:
    place.run()
    path = place.pickle("best.safetensors")
    (run,) = recorded_runs.find(str(place.folder), uri="sqlite:///none", folder=place.root)
    assert run.comparable.weights == hashlib.sha256(path.read_bytes()).hexdigest()


@canary
def a_pickle_as_test_predictions(place: Place) -> None:
    place.pickle("test_predictions.safetensors")
    assert predictions.read(str(place.folder)) is None


def _sealed_checkpoint(place: Place, path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".sha256").write_text(f"{digest}  {path.name}\n")
    lines: list[str] = []
    assert last_checkpoint(place.folder, lines.append) is None
    assert len(lines) == 1


@canary
def a_pickle_as_a_checkpoint_with_the_right_sha256(place: Place) -> None:
    _sealed_checkpoint(place, place.pickle("checkpoint/000001.safetensors"))


@canary
def a_checkpoint_saved_by_torch_with_the_right_sha256(place: Place) -> None:
    _sealed_checkpoint(place, place.pickle("checkpoint/000001.safetensors", how="zip"))


@canary
def a_sha256_that_is_a_pickle(place: Place) -> None:
    path = checkpoint.save(place.folder / "checkpoint", {"a": torch.zeros(2)}, {})
    path.with_suffix(".sha256").write_bytes(pickle.dumps(Canary(place.ran)))
    assert last_checkpoint(place.folder, lambda line: None) is None


@canary
def a_checkpoint_with_code_in_its_facts(place: Place) -> None:
    facts = {"_target_": "os.mkdir", "position": "${oc.env:SECRET}", "epochs": [], "optimizer": {}}
    checkpoint.save(place.folder / "checkpoint", {"other/kind": torch.zeros(2)}, facts)
    found = last_checkpoint(place.folder, print)
    assert found is not None
    assert found[1] == facts
    module = torch.nn.Linear(2, 2)
    learner = state.Learner(module, torch.optim.SGD(module.parameters()), None, frozenset(module.state_dict()))
    with pytest.raises(state.CheckpointMismatch):
        state.restore(learner, *found)


def _poisoned_entry(place: Place, poison: Callable[[Path], None]) -> None:
    key = hashlib.sha256(b"key").hexdigest()

    def make(writer: Any) -> dict[str, Any]:
        writer.tensor("rows", (4,), torch.float32)
        return {}

    said: list[str] = []
    Store(place.folder, budget=10**9, say=said.append).get("pixels", key, make, about="it")
    poison(place.folder / "pixels" / key[:2] / key)
    again = Store(place.folder, budget=10**9, say=said.append).get("pixels", key, make, about="it")
    assert again.made
    assert torch.equal(again.tensors["rows"], torch.zeros(4))


@canary
def a_pickle_as_a_tensor_of_the_store(place: Place) -> None:
    _poisoned_entry(place, lambda entry: (entry / "rows").write_bytes(pickle.dumps(Canary(place.ran))) and None)


@canary
def a_pickle_as_the_entry_file_of_the_store(place: Place) -> None:
    _poisoned_entry(place, lambda entry: (entry / "entry.jsonl").write_bytes(pickle.dumps(Canary(place.ran))) and None)


@canary
def a_store_entry_with_a_path_outside(place: Place) -> None:
    (place.root / "outside").write_bytes(b"\1" * 16)

    def poison(entry: Path) -> None:
        facts = json.loads((entry / "entry.jsonl").read_text().splitlines()[0])
        facts["tensors"] = {"../../../../outside": facts["tensors"]["rows"]}
        text = json.dumps(facts)
        (entry / "entry.jsonl").write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")

    _poisoned_entry(place, poison)


@canary
def a_poisoned_hub_cache(place: Place) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "get_dir", lambda: str(place.folder))
        place.pickle("checkpoints/resnet18-f37072fd.pth", how="zip")
        refused(lambda: build("resnet18", weights="IMAGENET1K_V1", num_classes=2, seed=0))


def _data_refused(place: Place, *overrides: str) -> None:
    config = compose(*overrides, f"data.root={place.folder}", "data.download=false", "store.enabled=false")
    with pytest.raises((UserError, RuntimeError)):
        run_data.load_data(
            config, setup.input_of(config, config.model.weights), run_data.store_of(config, print), Screen()
        )


@canary
def pickles_as_the_batches_of_cifar10(place: Place) -> None:
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        place.pickle(f"cifar-10-batches-py/{name}")
    _data_refused(place, "data=cifar10")


@canary
def pickles_as_images(place: Place) -> None:
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            place.pickle(f"{split}/{label}/image.png")
            place.pickle(f"{split}/{label}/other.tiff", how="zip")
    _data_refused(place, "data=image_folder")


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
    "a foreign resolver": "extra: ${canary:RAN}",
    "our own resolver": "extra: ${project_root:}",
    "an interpolation in a key": "'${canary:RAN}': 1",
    "a node interpolation": "extra: ${lr}",
    "an unknown key": "extra: 1",
    "aliases that expand exponentially": "a: &a [1]\nb: &b [*a, *a]\nextra: [*b, *b]",
    "deeply nested lists": "extra: " + "[" * 3000 + "]" * 3000,
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


def _config_refused(place: Place, *lines: str, **replaced: str) -> None:
    path = place.config(*(line.replace("RAN", str(place.ran)) for line in lines), **replaced)
    refused(lambda: validation.read_config(path))
    refused(lambda: recorded_configs.configs_of([untrusted.config(path)], [])[0])


for _name, _line in CODE.items():
    CANARIES[f"a config with {_name}"] = lambda place, line=_line: _config_refused(place, line)  # type: ignore[misc]
for _name, (_key, _value) in OPTIONS.items():
    CANARIES[f"a config with {_name}"] = lambda place, key=_key, value=_value: _config_refused(place, **{key: value})  # type: ignore[misc]


@canary
def a_config_of_a_gigabyte(place: Place) -> None:
    path = place.config()
    with path.open("r+b") as file:
        file.truncate(10**9)
    refused(lambda: validation.read_config(path))


NAMES = {
    "an optimizer that is a function of torch": "optimizer.name=lr_scheduler",
    "an optimizer with a path": "optimizer.name=../../os.system",
    "a model that is a function": "model.name=os.system",
    "a model that is a file": "model.name=../../../etc/passwd",
    "a data set that is a builtin": "data.source=__import__",
    "a data set that is a module": "data.source=utils",
    "a data set that is a base class": "data.source=VisionDataset",
}


def _name_refused(place: Place, override: str) -> None:
    refused(lambda: checks.check(compose("model.weights=null", override)))


for _name, _line in NAMES.items():
    CANARIES[_name] = lambda place, line=_line: _name_refused(place, line)  # type: ignore[misc]


# --- paths, sizes and numbers in records


def _fetch_refused(place: Place, run_id: str, name: str) -> None:
    refused(lambda: download.fetch_artifact(f"sqlite:///{place.root}/none.db", run_id, name, place.folder))


@canary
def an_artifact_outside_its_folder(place: Place) -> None:
    _fetch_refused(place, "0" * 32, "../../ran")


@canary
def an_artifact_at_an_absolute_path(place: Place) -> None:
    _fetch_refused(place, "0" * 32, str(place.ran))


@canary
def an_artifact_with_backslashes(place: Place) -> None:
    _fetch_refused(place, "0" * 32, "..\\..\\ran")


@canary
def a_run_id_that_is_a_path(place: Place) -> None:
    _fetch_refused(place, "../../../etc", "passwd")
    refused(lambda: recorded_runs.find("runs:/../../etc/passwd", uri="sqlite:///none", folder=place.folder))


@canary
def a_journal_that_sends_local_files(place: Place) -> None:
    (place.root / "secret").write_text(SECRET)
    (place.folder / "link").symlink_to(place.root / "secret")
    sent: list[str] = []

    class Client:
        tracking_uri = "none"

        def get_run(self, run_id: str) -> Any:
            raise AssertionError("asked where to send the file")

        def log_artifact(self, run_id: str, path: str, inside: str | None) -> None:
            sent.append(path)

    handing = mirror.Mirror(place.folder)
    for path in ("../secret", str(place.root / "secret"), "link"):
        assert not list(handing._copies(Client(), "0" * 32, [(path, None)]))  # type: ignore[arg-type]
    assert not sent


@canary
def a_result_with_a_wrong_folder(place: Place) -> None:
    place.run(folder="/etc")
    (run,) = recorded_runs.find(str(place.folder), uri="sqlite:///none", folder=place.root)
    assert run.identity == str(place.folder.resolve())


@canary
def a_result_with_additional_keys(place: Place) -> None:
    place.run(__class__="os.system", _target_="os.mkdir")
    refused(lambda: recorded_runs.find(str(place.folder), uri="sqlite:///none", folder=place.root))


@canary
def a_sweep_with_folders_outside(place: Place) -> None:
    place.run()
    (place.root / "sweep").mkdir()
    (place.root / "sweep" / "sweep.json").write_text(json.dumps({"tracker": None, "runs": [{"folder": "../record"}]}))
    refused(lambda: recorded_runs.find(str(place.root / "sweep"), uri="sqlite:///none", folder=place.root))


@canary
def metrics_that_are_not_finite(place: Place) -> None:
    for value in ("NaN", "Infinity", "-Infinity", "1e999"):
        place.run()
        (place.folder / "metrics.jsonl").write_text(f'{{"epoch": 1, "val/loss": {value}}}\n')
        refused(lambda: recorded_runs.find(str(place.folder), uri="sqlite:///none", folder=place.root))


@canary
def metrics_of_a_terabyte(place: Place) -> None:
    place.run()
    with (place.folder / "metrics.jsonl").open("r+b") as file:
        file.truncate(10**12)
    refused(lambda: recorded_runs.find(str(place.folder), uri="sqlite:///none", folder=place.root))


@canary
def a_provenance_with_packages_and_a_command(place: Place) -> None:
    place.run()
    (place.folder / "packages.json").write_text(json.dumps({"evil": f"; mkdir {place.ran}"}))
    evil = {"command": f"mkdir {place.ran}", "source": "${canary:x}"}
    (place.folder / "provenance.json").write_text(json.dumps(evil))
    (run,) = recorded_runs.find(str(place.folder), uri="sqlite:///none", folder=place.root)
    assert run.comparable.environment["packages.evil"] == f"; mkdir {place.ran}"  # only shown


@canary
def a_patch_on_record(place: Place) -> None:
    place.run()
    patch = f"--- /dev/null\n+++ b/../ran\n@@ -0,0 +1 @@\n+{place.ran}\n"
    (place.folder / "source.patch").write_text(patch)
    recorded_runs.find(str(place.folder), uri="sqlite:///none", folder=place.root)
    assert (place.folder / "source.patch").read_text() == patch


# --- the tests


@pytest.fixture(autouse=True)
def _triggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install what canaries try to trigger: a secret, a resolver and a YAML constructor."""
    monkeypatch.setenv("SECRET", SECRET)
    OmegaConf.register_new_resolver("canary", os.mkdir, replace=True)
    yaml.add_constructor("!canary", lambda loader, node: Path(node.value).mkdir(), yaml.Loader)
    yield
    OmegaConf.clear_resolver("canary")


TRIGGERED: dict[str, bool] = {}


@pytest.mark.parametrize("name", CANARIES)
def test_opening_a_record_triggers_no_canary(name: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    try:
        CANARIES[name](place)
    finally:
        TRIGGERED[name] = place.ran.exists() or Path("ran").exists()
    assert not TRIGGERED[name]


def test_record_without_canary_is_accepted(tmp_path: Path) -> None:
    path = Place(tmp_path).config()
    assert validation.read_config(path) == compose("epochs=1")
    assert digest(recorded_configs.configs_of([untrusted.config(path)], [])[0]) == digest(compose("epochs=1"))


def test_careless_readers_trigger_canaries(tmp_path: Path) -> None:
    """Canaries work: unsafe loading triggers them."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "one")))
    torch.load(Place(tmp_path).pickle("w.pt", how="zip"), weights_only=False)
    yaml.load(f"!!python/object/apply:os.mkdir [{tmp_path / 'three'}]", yaml.UnsafeLoader)
    OmegaConf.to_container(OmegaConf.create({"a": f"${{canary:{tmp_path / 'four'}}}"}), resolve=True)
    assert all((tmp_path / name).exists() for name in ("one", "ran", "three", "four"))


def test_at_least_25_canaries_were_tried(capsys: pytest.CaptureFixture[str]) -> None:
    if len(TRIGGERED) < len(CANARIES):
        pytest.skip("not all canaries were tried")
    with capsys.disabled():
        print(f"\n{sum(TRIGGERED.values())} of {len(TRIGGERED)} canaries triggered")  # noqa: T201
    assert len(TRIGGERED) >= 25
    assert not any(TRIGGERED.values())
