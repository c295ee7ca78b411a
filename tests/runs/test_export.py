"""An exported file gives the network's probabilities in other programs and for images of any size."""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import frostline
from frostline import commands
from frostline.core.errors import UserError
from frostline.data.bit_depth import Levels
from frostline.models import build, weights
from frostline.records import layout
from frostline.records.result import Result, write_result
from frostline.runs import export, predict
from frostline.runs.export_formats import SUFFIXES
from frostline.runs.predict import Predictor
from small import SMALL, TINY, compose, execute_run, plain_config, raises_one_line

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """Return the folder of a run with a network of few layers, because export time grows with their number."""
    folder, options = tmp_path_factory.mktemp("tiny"), (*SMALL, *TINY, "freeze=full", "epochs=1")
    metrics, images = execute_run(compose(*options), folder)
    (folder / layout.CONFIG).write_text(json.dumps(plain_config(*options)))
    write_result(folder, Result(0, "tiny", str(folder), None, "FINISHED", None, {}, metrics, images))
    return folder


def export_run(run, tmp_path, capsys, kind):
    """Export a run and return the file."""
    assert commands.run("export", [str(run), "--format", kind, "--output", str(tmp_path)]) == 0
    printed, name = capsys.readouterr(), predict.load(run, device="cpu").model.name
    assert printed.err == "" and printed.out.splitlines()[0].endswith(f"{name} with 10 classes as {kind}")
    return tmp_path / f"model{SUFFIXES[kind]}"


def digits(run):
    """Return five test images and the probabilities that the run recorded for them."""
    from sklearn.datasets import load_digits

    recorded = load_file(run / "test_predictions.safetensors")
    scans = torch.from_numpy(load_digits().images)[recorded["ids"][:5]]
    images = scans.mul(255 / 16).round().byte()[:, None].repeat(1, 3, 1, 1)
    return images, recorded["logits"][:5].softmax(1)


@pytest.mark.slow
def test_onnx_accepts_any_batch_and_image_size(small_run, tmp_path, capsys):
    session = onnxruntime.InferenceSession(
        str(export_run(small_run, tmp_path, capsys, "onnx")), providers=["CPUExecutionProvider"]
    )
    images, expected = digits(small_run)
    for count in (1, 5):
        (probabilities,) = session.run(["probabilities"], {"images": images[:count].numpy()})
        assert torch.allclose(torch.from_numpy(probabilities), expected[:count], atol=1e-4)
    (large,) = session.run(None, {"images": torch.zeros(2, 3, 60, 100, dtype=torch.uint8).numpy()})
    assert large.shape == (2, 10)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == [str(digit) for digit in range(10)]
    assert metadata["input"].startswith("images: uint8 (N, 3, H, W)")
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]


@pytest.mark.slow
def test_pt2_accepts_any_batch_and_image_size(small_run, tmp_path, capsys):
    extra = {"frostline.json": ""}
    program = torch.export.load(export_run(small_run, tmp_path, capsys, "pt2"), extra_files=extra).module()
    images, expected = digits(small_run)
    for count in (1, 5):
        assert torch.allclose(program(images[:count]), expected[:count], atol=1e-4)
    assert program(torch.zeros(2, 3, 60, 100, dtype=torch.uint8)).shape == (2, 10)
    assert json.loads(extra["frostline.json"])["classes"] == [str(digit) for digit in range(10)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.load.* is (deprecated|not supported in Python 3.14)")
def test_torchscript_accepts_any_batch_and_image_size(small_run, tmp_path, capsys):
    extra = {"frostline.json": ""}
    script = torch.jit.load(export_run(small_run, tmp_path, capsys, "torchscript"), _extra_files=extra)
    images, expected = digits(small_run)
    for count in (1, 5):
        assert torch.allclose(script(images[:count]), expected[:count], atol=1e-4)
    assert script(torch.zeros(2, 3, 60, 100, dtype=torch.uint8)).shape == (2, 10)
    assert json.loads(extra["frostline.json"])["classes"] == [str(digit) for digit in range(10)]


def test_exported_safetensors_load_as_initial_weights(trained, tmp_path, capsys):
    file = export_run(trained.folder / "1", tmp_path, capsys, "safetensors")
    classes = [str(digit) for digit in range(10)]
    model = build.build("shufflenet_v2_x0_5", weights=str(file), num_classes=10, classes=classes, seed=0)
    original = predict.load(trained.folder / "1", device="cpu").model
    assert model.input == original.input
    state = model.module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.module.state_dict().items())


def test_disagreeing_export_is_not_kept(trained, tmp_path, monkeypatch, capsys):
    write, _ = export._FORMATS["safetensors"]
    wrong = (write, lambda file: lambda images: torch.full((len(images), 10), 0.1))
    monkeypatch.setitem(export._FORMATS, "safetensors", wrong)
    status = commands.run(
        "export", [str(trained.folder / "1"), "--format", "safetensors", "--output", str(tmp_path / "x.safetensors")]
    )
    captured = capsys.readouterr()
    assert status == 1 and captured.out == "" and "nothing was written" in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [0.5, float("nan")])
def test_largest_difference_of_any_sample_counts(small_run, tmp_path, monkeypatch, wrong):
    write, read = export._FORMATS["safetensors"]

    def one_is_wrong(images):
        return read(tmp_path / "model.safetensors")(images) + (wrong if images.shape[2:] == (70, 33) else 0.0)

    monkeypatch.setitem(export._FORMATS, "safetensors", (write, lambda file: one_is_wrong))
    write(network := predict.load(small_run, device="cpu"), None, tmp_path / "model.safetensors")
    with pytest.raises(export.Disagreement):
        export.export(network, "safetensors", tmp_path / "another.safetensors")


def test_format_that_cannot_hold_a_network_is_refused(small_run, tmp_path, monkeypatch):
    def write(*given):
        raise RuntimeError("no such\noperation")

    monkeypatch.setitem(export._FORMATS, "onnx", (write, None))
    with raises_one_line(r"^kind=onnx: expected a format that can hold test_resnet \(no such operation\)$"):
        export.export(predict.load(small_run, device="cpu"), "onnx", tmp_path / "model.onnx")


@pytest.mark.parametrize(("kind", "name"), [("onnx", "x.pt2"), ("safetensors", "x")])
def test_suffix_of_another_format_is_refused(small_run, tmp_path, kind, name):
    with raises_one_line(f"^path={tmp_path}/{name}: expected a file whose name ends in {SUFFIXES[kind]}$"):
        export.export(predict.load(small_run, device="cpu"), kind, tmp_path / name)


def test_multi_label_network_is_exported_in_float32(tmp_path):
    config = compose(*SMALL, "model=timm", "model.name=test_vit", "model.weights=null", "precision=bf16")
    model = build.build("test_vit", library="timm", weights=None, num_classes=3, seed=0, image_size=32)
    model.module.eval()
    network = Predictor(model, ("a", "b", "ü"), config, torch.device("cpu"), Levels(7.0, 9.0), "digest", True)
    assert export.export(network, "safetensors", tmp_path / "model.safetensors") < export.TOLERANCE
    said = weights.metadata_of(tmp_path / "model.safetensors")
    assert (said["library"], said["classes"], said["multi_label"]) == ("timm", ["a", "b", "ü"], True)
    assert said["levels"] == {"low": 7.0, "high": 9.0, "of_image": False}
    assert {"input", "output", "preprocessing"} < said.keys()


def test_gpu_network_is_exported_from_a_cpu_copy(small_run, tmp_path):
    network = predict.load(small_run, device="cpu")
    classifier = frostline.Classifier(replace(network, device=torch.device("cuda:7")))  # no such device
    assert classifier.export(tmp_path / "model.pt") < export.TOLERANCE
    assert classifier.network.device.type == "cuda"


def test_missing_package_is_named_in_one_line(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        UserError, match=r"^--format=onnx: expected the packages onnx, onnxscript and onnxruntime"
    ) as error:
        commands.run("export", [str(trained.folder / "1"), "--format", "onnx", "--output", str(tmp_path)])
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onnx", "--output", "gone/x.onnx"), "--output=gone/x.onnx: expected a file in a folder that"),
        (("--format", "onnx", "--output", "gone/"), "--output=gone/: expected a folder that exists"),
        (("--format", "onnx", "--output", "x.pt2"), "--output=x.pt2: expected a file whose name ends in .onnx"),
        (("--format", "onx"), "argument --format: invalid choice: 'onx'"),
        ((), "the following arguments are required: --format"),
    ],
)
def test_user_mistake_is_one_line_before_the_network_is_loaded(trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frostline.api, "load", None)
    with pytest.raises(UserError) as error:
        commands.run("export", [str(trained.folder / "1"), *arguments])
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_existing_file_is_overwritten_only_by_name(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (existing := tmp_path / "model.safetensors").write_text("of another run")
    arguments = [str(trained.folder / "1"), "--format", "safetensors"]
    for place in ([], ["--output", "."]):
        with pytest.raises(UserError, match=r"^--output=model\.safetensors: expected a new file; this one exists"):
            commands.run("export", [*arguments, *place])
    assert existing.read_text() == "of another run"
    assert commands.run("export", [*arguments, "--output", existing.name]) == 0
    assert existing.stat().st_size > 1000


@pytest.mark.parametrize("kind", ["pt2", "torchscript", "safetensors"])
def test_full_disk_is_one_line_and_leaves_no_file(small_run, tmp_path, kind):
    network = predict.load(small_run, device="cpu")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(UserError, match=f"^path={tmp_path}/.*: expected a place that can be written"):
            frostline.Classifier(network).export(tmp_path / f"model{SUFFIXES[kind]}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*tmp_path.iterdir()]
