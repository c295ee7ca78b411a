"""The best run of a sweep is found, and its predictions on files equal its recorded test predictions."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from frostline import commands
from frostline.core import validation
from frostline.core.errors import UserError
from frostline.data.bit_depth import FULL
from frostline.data.open_image import open_image
from frostline.data.resize import center_crop
from frostline.models import weights
from frostline.records.result import Result
from frostline.runs import batch_predictions, predict
from frostline.store import hashing, tensorfile
from frostline.sweeps.catalog import TypedName
from frostline.sweeps.find_weights import best, found
from small import load_data

CPU = torch.device("cpu")


def answers(network, files, *, batch):
    rows = range(len(files))
    batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    return list(batch_predictions.answers(network, batches, lambda row: open_image(files[row])))


def result(job, mode, val, *, seed=0, status="FINISHED", **choices):
    metrics = {"best/val_accuracy": val} if status == "FINISHED" else {}
    facts = {"freeze_mode": mode, "seed": seed, "data": "digits", **choices}
    return Result(job, f"{mode} seed={seed}", f"/sweep/{job}", None, status, None, facts, metrics)


@pytest.fixture(scope="module")
def images(trained, tmp_path_factory):
    """Write the test images of the run into files. Return their folder and labels."""
    request = validation.read_config(trained.folder / "0" / "config.yaml").data
    test, folder = load_data(**asdict(request)).test, tmp_path_factory.mktemp("somebody's images ü")
    for row, pixels in enumerate(test.pixels):
        Image.fromarray(pixels[0].numpy()).save(folder / f"{row:04} ñ.png")
    return folder, test.labels


@pytest.mark.slow
def test_predictions_on_files_equal_recorded_test_predictions(trained, images, tmp_path):
    folder, labels = images
    options = ("--top", 10, "--format", "json", "--save-views", tmp_path / "views")
    out, err = trained.command("predict", trained.folder / "0", folder, *options, cwd=tmp_path)
    rows = json.loads(out)
    network = predict.load(trained.folder / "0", device="cpu")
    views = sorted((tmp_path / "views").iterdir())
    assert [view.name for view in views] == [file.name for file in sorted(folder.iterdir())]
    for view, file in zip(views[:5], sorted(folder.iterdir()), strict=False):
        whole = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)
        shown = torch.from_numpy(np.array(Image.open(view))).permute(2, 0, 1)
        assert torch.equal(shown, center_crop(whole[None], network.center)[0])
    assert err == "" and [row["file"] for row in rows] == sorted(map(str, folder.iterdir()))
    recorded = load_file(trained.folder / "0" / "test_predictions.safetensors")
    probabilities = torch.tensor([[row["probabilities"][str(label)] for label in range(10)] for row in rows])
    assert torch.allclose(probabilities, recorded["logits"].softmax(1), atol=1e-4, rtol=0)
    accuracy = sum(row["class"] == str(label) for row, label in zip(rows, labels.tolist(), strict=True)) / len(labels)
    assert accuracy == json.loads((trained.folder / "0" / "result.json").read_text())["metrics"]["test/accuracy"]


def test_predictions_do_not_depend_on_the_batch_size(trained, images):
    network = predict.load(trained.folder / "1", device="cpu")
    recorded = load_file(trained.folder / "1" / "test_predictions.safetensors")["logits"][:7]
    for batch in (1, 3, 7):
        rows = answers(network, sorted(images[0].iterdir())[:7], batch=batch)
        assert torch.allclose(torch.cat([row.probabilities for row in rows]), recorded.softmax(1), atol=1e-4)


@pytest.mark.slow
def test_sweep_stands_for_its_best_cell(trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    results = [json.loads(path.read_text()) for path in sorted(trained.folder.glob("*/result.json"))]
    winner = max(results, key=lambda each: each["metrics"]["best/val_accuracy"])
    expected = hashing.of_file(Path(winner["folder"], "best.safetensors"))
    sweep_id = json.loads((trained.folder / "sweep.json").read_text())["tracker"]["sweep_run_id"]
    for name in (str(trained.folder), sweep_id, f"runs:/{winner['run_id']}", winner["folder"]):
        with found(name) as run:
            assert hashing.of_file(run.folder / "best.safetensors") == expected
            assert (run.result.name, run.result.run_id) == (winner["name"], winner["run_id"])
            validation.read_config(run.folder / "config.yaml")
            note = f"{winner['name']}, the best of 2 cells by validation" if name in (trained.folder, sweep_id) else ""
            assert run.note.startswith(note)


def test_missing_weights_are_fetched_from_mlflow(trained, tmp_path):
    """As on another machine, where the folders of the runs are missing."""
    sweep = shutil.copytree(trained.folder, tmp_path / "sweep")
    for run in ("0", "1"):
        (sweep / run / "best.safetensors").unlink()
        result = json.loads((sweep / run / "result.json").read_text())
        (sweep / run / "result.json").write_text(json.dumps({**result, "folder": str(sweep / run)}))
    for target in (sweep, sweep / "1"):
        with found(str(target)) as run:
            assert run.folder not in (sweep / "0", sweep / "1") and run.uri == trained.uri
            assert hashing.of_file(run.folder / "best.safetensors") in {
                hashing.of_file(trained.folder / number / "best.safetensors") for number in ("0", "1")
            }
    (sweep / "sweep.json").unlink()
    with pytest.raises(UserError, match="a run that kept its weights"), found(str(sweep)):
        pass


def test_csv_from_stdin_list_counts_unreadable_images(trained, images, tmp_path):
    good = sorted(map(str, images[0].iterdir()))[:3]
    (tmp_path / "broken, very.png").write_bytes(b"\x89PNG but no more")
    listed = "\n".join([good[0], "broken, very.png", "gone.png", "", *good[1:]])
    out, err = trained.command("predict", trained.folder / "0", "-", "--top", 2, cwd=tmp_path, stdin=listed, expect=1)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["file"] for row in rows] == good
    assert all(float(row["probability"]) >= float(row["probability_2"]) for row in rows)
    lines = err.splitlines()
    assert "broken, very.png" in lines[0] and "gone.png" in lines[1] and len(lines) == 3
    assert lines[2] == "frostline: 2 of 5 images could not be read"


def test_images_of_any_size_and_mode_are_predicted(trained, tmp_path):
    network = predict.load(trained.folder / "0", device="cpu")
    for size, mode in (((8, 8), "L"), ((300, 17), "RGB"), ((1, 1), "1"), ((33, 64), "RGBA"), ((20, 20), "P")):
        Image.new(mode, size).save(tmp_path / f"{size} {mode}.png")
    rows = torch.cat([row.probabilities for row in answers(network, sorted(tmp_path.iterdir()), batch=2)])
    assert rows.shape == (5, 10) and rows.isfinite().all()


def test_image_above_max_pixels_is_not_decoded(trained, tmp_path):
    network = predict.load(trained.folder / "0", device="cpu")
    small = replace(network, config=replace(network.config, data=replace(network.config.data, max_pixels=100)))
    for side in (10, 11):
        Image.new("L", (side, side)).save(tmp_path / f"{side}.png")
    (found,) = answers(small, sorted(tmp_path.iterdir()), batch=2)
    assert len(found.probabilities) == 1 and found.errors == {1: "121 pixels, more than data.max_pixels"}


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_unreadable_file_is_named(tmp_path, content):
    file = tmp_path / "broken.png"
    if content is None:  # a truncated file
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
        content = file.read_bytes()[:5000]
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.png: "):
        predict._pixels(SimpleNamespace(levels=FULL), file)


def test_best_cell_has_highest_mean_validation_accuracy():
    results = [
        result(0, "head", 0.90, seed=0),
        result(1, "head", 0.99, seed=1),
        result(2, "full", 0.95, seed=0),
        result(3, "full", 0.96, seed=1),
        result(4, "norm", 0.0, status="FAILED"),
    ]
    chosen, note = best(TypedName("sweep"), results)
    assert chosen.job == 2
    assert note == "full seed=0, the best of 2 cells by validation (95.50%); 1 of 5 runs unfinished"


def test_network_of_a_fold_is_announced_as_such():
    folds = [result(0, "head", 0.8, **{"data.fold": 0}), result(1, "head", 0.9, **{"data.fold": 1})]
    chosen, note = best(TypedName("sweep"), folds)
    assert chosen.job == 0
    assert note.endswith("1 cell by validation (85.00%); to learn from this fold too, train without data.folds")


def test_only_cell_is_the_best_of_one():
    assert (
        best(TypedName("sweep"), [result(0, "head", 0.9)])[1]
        == "head seed=0, the best of 1 cell by validation (90.00%)"
    )


def test_sweep_without_finished_runs_is_refused():
    with pytest.raises(UserError, match="none of its 1 is"):
        best(TypedName("sweep"), [result(0, "head", 0, status="KILLED")])


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"data": "cifar10"}, "data=cifar10, data=digits"),
        ({"data.fraction": 0.5}, r"data\.fraction=0\.5, data\.fraction=1"),
        ({"data.limit": 50}, r"data\.limit=50, data\.limit=null"),
    ],
)
def test_runs_on_other_data_are_not_compared(other, named):
    same = {"data.fraction": 1, "data.limit": "null"}
    results = [result(0, "head", 0.9, **same), result(1, "head", 0.95, **{**same, **other})]
    with pytest.raises(UserError, match=f"since these are not compared: {named}$"):
        best(TypedName("sweep"), results)


def copy_of(trained, tmp_path):
    return Path(shutil.copytree(trained.folder, tmp_path / "moved"))


def test_moved_sweep_is_found_at_its_new_place(trained, tmp_path):
    moved = copy_of(trained, tmp_path)
    with found(str(moved)) as run:
        assert run.folder.parent == moved


def test_failed_and_half_written_runs_are_skipped(trained, tmp_path):
    moved = copy_of(trained, tmp_path)
    (moved / "2").mkdir()
    (moved / "2" / "result.json").write_text('{"job": 2, "na')
    failed = {**json.loads((moved / "0" / "result.json").read_text()), "status": "FAILED", "reason": "Diverged: nan"}
    (moved / "0" / "result.json").write_text(json.dumps(failed))
    (moved / "0" / "best.safetensors").unlink()
    with found(str(moved)) as run:
        assert run.folder == moved / "1" and "1 of 2 runs unfinished" in run.note
    with pytest.raises(UserError, match=r"is FAILED \(Diverged: nan\)"), found(str(moved / "0")):
        pass


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        ("epochs: 2", "epochs: !!python/object/apply:os.system [id]", "expected plain YAML"),
        ("epochs: 2", "epochs: ${oc.env:HOME}", "plain values, and epochs is none"),
        ("epochs: 2", "epochs: 2\n_target_: os.system", "plain values, and _target_ is none"),
        ("epochs: 2", "epochs: fast", "epochs=fast: expected a value of type int"),
        ("epochs: 2", "epochs: 0", "epochs=0: expected a whole number of at least 1"),
        ("epochs: 2", "epochs: 2\nepoch: 2", "did you mean epochs"),
    ],
)
def test_config_with_code_or_wrong_values_is_refused(trained, tmp_path, line, replacement, message):
    text = (trained.folder / "0" / "config.yaml").read_text()
    assert line in text
    (tmp_path / "config.yaml").write_text(text.replace(line, replacement))
    with pytest.raises(UserError, match=message) as error:
        validation.read_config(tmp_path / "config.yaml")
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_incomplete_weights_are_refused(trained, tmp_path):
    moved = copy_of(trained, tmp_path) / "0"
    file = moved / "best.safetensors"
    tensors, meta = weights.read(file), weights.metadata_of(file)
    head = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    tensorfile.save(file, head, meta)
    with pytest.raises(UserError, match="expected all weights of shufflenet_v2_x0_5"):
        predict.load(moved, device="cpu")
    save_file(tensors, file)
    with pytest.raises(UserError, match="written by a run of frostline"):
        predict.load(moved, device="cpu")


def test_other_weights_than_the_run_wrote_are_refused(trained, tmp_path):
    moved = copy_of(trained, tmp_path) / "0"
    file = moved / "best.safetensors"
    tensors, meta = weights.read(file), weights.metadata_of(file)
    for change, message in (
        ({"model": "resnet18"}, "expected weights of shufflenet_v2_x0_5 written by a run of frostline"),
        ({"levels": {"white": "much"}}, "expected weights written by a run of frostline; its header says "),
        ({"note": "mine"}, "expected the weights that the run wrote, but the file was changed since"),
    ):
        tensorfile.save(file, tensors, meta | change)
        with pytest.raises(UserError, match=f"^{file}: {message}"):
            predict.load(moved, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "x.png"), "images=x.png: expected a file or folder, and there is none"),
        (("nowhere", "."), "run=nowhere: expected a folder, an MLflow run id or its beginning"),
        (("f" * 32, "."), f"run={'f' * 32}: expected a run of sqlite:///"),
        ((".", "."), "run=.: expected a run with best.safetensors, or a sweep with finished runs"),
        (("nowhere",), "the following arguments are required: images"),
        (("nowhere", ".", "--top", "0"), "argument --top: expected a whole number of at least 1, not 0"),
        (("nowhere", "empty"), "images=empty: expected a folder with images"),
        (("nowhere", ".", "--features", "head"), "--features=head: expected to be given with --output"),
        (
            ("nowhere", ".", "--output", "o.csv", "--format", "csv"),
            "--format=csv: expected to be given without --output",
        ),
        (("nowhere", ".", "--output", "no/o.csv"), "--output=no/o.csv: expected a file in a folder that exists"),
    ],
)
def test_user_mistake_is_one_line(trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    (tmp_path / "empty").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(UserError) as error:
        commands.run("predict", arguments)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_views_do_not_overwrite_the_images(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (80, 80)).save(tmp_path / "one.png")
    before = (tmp_path / "one.png").read_bytes()
    (tmp_path / "here").symlink_to(tmp_path)
    for given in (".", "one.png", tmp_path):
        with pytest.raises(UserError, match=r"^--save-views=here: expected a folder without the images themselves"):
            commands.run("predict", [str(trained.folder / "0"), str(given), "--save-views", "here"])
    assert (tmp_path / "one.png").read_bytes() == before
