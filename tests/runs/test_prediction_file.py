"""Predictions on many images are written to one file, which an interruption does not change."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
import tarfile
import time
from contextlib import contextmanager
from dataclasses import replace

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import frostline
import warm
from disk import file_size_limit
from frostline.core import locks
from frostline.core.errors import UserError
from frostline.data import image_list, table_files
from frostline.models import cut
from frostline.runs import batch_predictions, predict, prediction_file, prediction_rows
from small import no_progress, read_image

COUNT = 50


@pytest.fixture(scope="module")
def network(trained):
    return predict.load(trained.folder / "1", device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Write images, two of them broken, and return their folder."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(COUNT):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number:02} ü.png")
    (folder / "03 ü.png").write_bytes(b"\x89PNG but no more")
    (folder / "48 ü.png").write_bytes(b"")
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(prediction_file, "_PART", 8)
    monkeypatch.setattr(prediction_rows, "_ROW_GROUP", 3)
    monkeypatch.setattr(image_list, "_ROWS", 7)
    monkeypatch.setattr(table_files, "_ROWS", 7)


def write(network, output, images, *, top=2, per_class=False, features=None, batch=4, progress=no_progress, **where):
    given = images if isinstance(images, list) else [images]
    return prediction_file.write(
        network,
        output,
        lambda file: image_list.gather(file, given, say=print, **where),
        **{"top": top, "per_class": per_class, "features": features, "batch": batch, "progress": progress},
    )


def readable(folder):
    return [file for file in sorted(folder.iterdir()) if file.name[:2] not in ("03", "48")]


def test_file_has_the_networks_probabilities_for_each_image(network, images, tmp_path):
    written = write(network, tmp_path / "predictions.parquet", images, top=10)
    assert (written.rows, written.unread) == (COUNT, 2)
    assert written.examples == (f"{images}/03 ü.png: not an image", f"{images}/48 ü.png: empty")
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(frame["file"]) == list(map(str, sorted(images.iterdir())))
    assert list(frame["error"].dropna()) == ["not an image", "empty"]
    good = frame[frame["error"].isna()]
    batches = [sorted(images.iterdir())[at : at + 4] for at in range(0, COUNT, 4)]
    kept = set(readable(images))
    each = [probabilities_of(network, [file for file in batch if file in kept]) for batch in batches]
    expected = torch.cat(each).topk(10)
    for place, mark in enumerate(["", *(f"_{number}" for number in range(2, 11))]):
        assert np.array_equal(good[f"probability{mark}"].to_numpy(), expected.values[:, place].numpy())
        assert [network.classes[i] for i in expected.indices[:, place]] == list(good[f"class{mark}"])
    assert frame[["class", "probability"]].isna().all(axis=1).sum() == 2
    metadata = parquet.read_schema(tmp_path / "predictions.parquet").metadata
    assert metadata[b"frostline.weights"].decode() == network.digest
    assert json.loads(metadata[b"frostline.classes"]) == list(network.classes)


def test_probability_of_each_class_has_a_column(network, images, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,probability of 7\n" + "".join(f"{images}/{file.name},x\n" for file in readable(images)[:3]))
    csv, lines = tmp_path / "predictions.csv", tmp_path / "predictions.jsonl"
    for output in (csv, lines):
        write(network, output, table, top=1, per_class=True)
    expected = probabilities_of(network, readable(images)[:3])
    names = [f"{'predicted_' if name == '7' else ''}probability of {name}" for name in network.classes]
    frame = pd.read_csv(csv)
    assert list(frame) == ["path", "probability of 7", "class", "probability", *names, "error"]
    assert np.allclose(frame[names], expected, atol=1e-6)
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["probabilities"] for row in rows] == [
        dict(zip(network.classes, row, strict=True)) for row in expected.tolist()
    ]


def probabilities_of(network, files):
    return predict.probabilities(network, files, batch=len(files))


@pytest.mark.parametrize("layer", ["head", "stage2"])
def test_features_equal_the_layers_output(network, images, tmp_path, layer):
    write(network, tmp_path / "plain.parquet", images)
    write(network, tmp_path / "predictions.parquet", images, features=layer)
    plain, frame = pd.read_parquet(tmp_path / "plain.parquet"), pd.read_parquet(tmp_path / "predictions.parquet")
    assert plain.equals(frame.drop(columns="features"))
    found = torch.from_numpy(np.stack(frame["features"].dropna().tolist()))
    structure = network.model.structure
    below = structure.stages[: structure.stages.index(layer) + (layer != "head")]
    views = torch.stack([predict.view(network, read_image(file)) for file in readable(images)])
    with torch.inference_mode():
        inputs = network.model.input.normalise(views.float())
        maps = cut.halves(network.model.module, structure, below)[0](inputs)
    expected = maps if layer == "head" else maps.mean((2, 3))
    assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=1e-5)
    schema = parquet.read_schema(tmp_path / "predictions.parquet")
    assert schema.metadata[b"frostline.features"].decode() == layer
    assert str(schema.field("features").type) == "list<element: float>"
    if layer == "head":
        with torch.inference_mode():
            logits = network.model.module.fc(found)
        good = frame[frame["error"].isna()]
        assert [network.classes[i] for i in logits.argmax(1)] == list(good["class"])


class Kill(BaseException):
    pass


def kill_after(batches):
    """Return a progress that raises `Kill` after `batches` batches."""

    @contextmanager
    def progress(what, total):
        left = [batches + 1]  # the first call reports what was done before

        def advance(count):
            left[0] -= 1
            if left[0] < 0:
                raise Kill

        yield advance

    return progress


@pytest.mark.parametrize("kind", prediction_file.SUFFIXES)
def test_interrupted_file_is_resumed_to_the_same_bytes(network, images, tmp_path, kind, monkeypatch):
    features = None if kind == ".csv" else "head"
    whole, output = tmp_path / f"whole{kind}", tmp_path / f"predictions{kind}"
    write(network, whole, images, features=features)
    computed, answers = [], batch_predictions.answers

    def counted(*arguments, **named):
        for found in answers(*arguments, **named):
            computed.append(found.rows)
            yield found

    monkeypatch.setattr(batch_predictions, "answers", counted)
    parts_folder = tmp_path / f"predictions{kind}.parts"
    for batches in (0, 3, 4):
        with pytest.raises(Kill):
            write(network, output, images, features=features, progress=kill_after(batches))
        assert not output.exists() and parts_folder.is_dir()
    parts = sorted(parts_folder.glob("*.part"))
    assert len(parts) == 3  # one after 3 batches, two more after 4
    parts[1].write_bytes(parts[1].read_bytes()[:-100])  # as after a power failure
    (parts_folder / "000000000024.partial").write_bytes(b"ARROW1")
    computed.clear()
    write(network, output, images, features=features)
    assert output.read_bytes() == whole.read_bytes()
    assert {rows.start for rows in computed} == set(range(0, COUNT, 4)) - {0, 4, 16, 20}
    names = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert sorted(names) == [f"predictions{kind}", f"whole{kind}"]
    computed.clear()
    before = output.stat().st_mtime_ns
    again = write(network, output, images, features=features)
    assert again.before and (again.rows, again.unread, len(again.examples)) == (COUNT, 2, 2)
    assert not computed and output.stat().st_mtime_ns == before and not parts_folder.exists()
    output.write_bytes(output.read_bytes()[:-1])
    with pytest.raises(UserError, match="changed by another program: remove it"):
        write(network, output, images, features=features)
    output.unlink()
    assert not write(network, output, images, features=features).before
    assert computed and output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("file", ["images.arrow", "000000000000.part"])
def test_full_disk_names_the_file(images, tmp_path, file):
    rows = pa.table({"image": ["a name"] * 1000})
    with file_size_limit(100), pytest.raises(OSError, match=f": '{tmp_path / file}'"):
        if file == "images.arrow":
            image_list.gather(tmp_path / file, [images], say=print)
        else:
            prediction_file._put(tmp_path / file, rows)


def test_parts_of_another_command_are_refused(network, trained, images, tmp_path):
    output = tmp_path / "predictions.csv"
    with pytest.raises(Kill):
        write(network, output, images, progress=kill_after(4))
    begun = rf"^output={output}: expected the %s with which {output}\.parts was begun; remove it"
    with pytest.raises(UserError, match=begun % "top"):
        write(network, output, images, top=1)
    with pytest.raises(UserError, match=begun % "per_class"):
        write(network, output, images, per_class=True)
    with pytest.raises(UserError, match=begun % "images"):
        write(network, output, readable(images))
    with pytest.raises(UserError, match=begun % "weights"):
        write(predict.load(trained.folder / "0", device="cpu"), output, images)
    with pytest.raises(UserError, match=begun % "batch"):
        write(network, output, images, batch=5)
    with pytest.raises(UserError, match=begun % "precision"):
        write(replace(network, config=replace(network.config, precision="bf16")), output, images)
    (tmp_path / "predictions.csv.parts" / "job.json").unlink()
    assert write(network, output, readable(images)).unread == 0


def test_parts_that_a_finished_file_left_do_not_hinder_another_command(network, images, tmp_path, monkeypatch):
    some = sorted(images.iterdir())[:3]
    with monkeypatch.context() as killed:
        killed.setattr(prediction_file.shutil, "rmtree", lambda *about, **how: None)
        write(network, tmp_path / "p.csv", some, top=3)
    assert (tmp_path / "p.csv.parts" / "job.json").exists()
    for name in ("p.csv", "new.csv"):
        write(network, tmp_path / name, some, top=2)
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "new.csv").read_bytes()
    assert not (tmp_path / "p.csv.parts").exists()


def test_file_that_another_process_writes_is_refused(network, images, tmp_path):
    (parts := tmp_path / "predictions.csv.parts").mkdir()
    lock = locks.acquire(parts / "lock", timeout=0)
    with pytest.raises(UserError, match="expected a file that no other process is writing"):
        write(network, tmp_path / "predictions.csv", images)
    lock.release()
    assert write(network, tmp_path / "predictions.csv", readable(images)[:1]).rows == 1


TABLES = {
    "t.csv": lambda frame, file: frame.to_csv(file, index=False),
    "t.tsv": lambda frame, file: frame.to_csv(file, index=False, sep="\t"),
    "t.parquet": lambda frame, file: frame.to_parquet(file),
    "t.jsonl": lambda frame, file: file.write_text(frame.to_json(orient="records", lines=True)),
}


@pytest.mark.parametrize("name", TABLES)
def test_table_keeps_its_columns_beside_predictions(network, images, tmp_path, name):
    folder = shutil.copytree(images, tmp_path / "there" / "pics")
    names = sorted(file.name for file in folder.iterdir())
    frame = pd.DataFrame({"id": range(COUNT), "image": [f"pics/{n}" for n in names], "class": 'a, "b"\nc'})
    frame["age"] = [None if number == 40 else number / 2 for number in range(COUNT)]
    frame["when"] = "2020-01-02"
    table = tmp_path / "there" / name
    TABLES[name](frame, table)
    written = write(network, tmp_path / "predictions.parquet", table)
    assert written.examples[0] == "pics/03 ü.png: not an image"
    found = pd.read_parquet(tmp_path / "predictions.parquet")
    plain = (
        pd.read_csv(table, dtype=str, na_filter=False, sep="\t" if name == "t.tsv" else ",")
        if name[-2] == "s"
        else frame
    )
    for column in frame.columns:
        assert list(found[column].fillna(-1)) == list(plain[column].fillna(-1)), column
    assert list(found.columns[len(frame.columns) :]) == [
        *("predicted_class", "probability", "class_2", "probability_2", "error")
    ]
    write(network, tmp_path / "files.parquet", folder)
    alone = pd.read_parquet(tmp_path / "files.parquet")
    assert list(found["predicted_class"].fillna("")) == list(alone["class"].fillna(""))
    write(network, tmp_path / "predictions.csv", table)
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == list(frame["image"]) and rows[0]["class"] == 'a, "b"\nc'
    assert [float(row["probability"] or -1) for row in rows] == pytest.approx(
        list(alone["probability"].fillna(-1)), abs=1e-6
    )
    write(network, tmp_path / "predictions.jsonl", table)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert (
        lines[3] == {**lines[3], "image": "pics/03 ü.png", "error": "not an image"} and "probabilities" not in lines[3]
    )
    assert next(iter(lines[0]["probabilities"])) == lines[0]["predicted_class"] == alone["class"][0]


def test_shards_give_the_same_predictions_as_files(network, images, tmp_path):
    names = sorted(file.name for file in images.iterdir())
    for number, part in enumerate((names[:20], names[20:21], names[21:])):
        with tarfile.open(tmp_path / f"s-{number}.tar", "w") as shard:
            for name in part:
                shard.add(images / name, name)
    written = write(network, tmp_path / "shards.parquet", str(tmp_path / "s-{0..2}.tar"))
    write(network, tmp_path / "files.parquet", images)
    found, files = (pd.read_parquet(tmp_path / f"{what}.parquet") for what in ("shards", "files"))
    assert written.unread == 2 and found.drop(columns="file").equals(files.drop(columns="file"))
    assert list(found["file"][[0, 20, 21]]) == [f"s-{n}.tar/{name}" for n, name in enumerate((names[0], *names[20:22]))]
    with pytest.raises(UserError, match="expected one table alone, shards alone, or files and folders"):
        write(network, tmp_path / "o.csv", [tmp_path / "s-0.tar", images])


def test_json_lines_columns_may_start_late_and_mix_numbers(network, images, tmp_path):
    rows = [{"file": str(file), "n": number} for number, file in enumerate(readable(images)[:20])]
    rows[15] |= {"n": 0.5, "late": "x"}
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write(network, tmp_path / "predictions.parquet", tmp_path / "t.jsonl")
    found = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(found["n"]) == [row["n"] for row in rows] and list(found["late"].dropna()) == ["x"]


def test_json_lines_values_of_any_type_are_kept(network, images, tmp_path):
    values = [{"cam": "x"}, {"cam": None, "n": [{"ü": 1}]}, {}, 10**30, "text", [1, {"a": 2}], None, True]
    rows = [{"file": str(file), "meta": one} for file, one in zip(readable(images)[:8], values, strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for suffix in ("csv", "jsonl", "parquet"):
        write(network, tmp_path / f"predictions.{suffix}", tmp_path / "t.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["meta"] for line in lines] == values
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        cells = [row["meta"] for row in csv.DictReader(stream)]
    shown = ('{"cam": "x"}', '{"cam": null, "n": [{"ü": 1}]}', "{}", str(10**30), "text", '[1, {"a": 2}]', "", "True")
    assert cells == [*shown]
    texts = pd.read_parquet(tmp_path / "predictions.parquet")["meta"]
    assert [json.loads(text) for text in texts.dropna()] == [one for one in values if one is not None]
    with pytest.raises(UserError, match=r"^path=meta: expected a column of texts"):
        write(network, tmp_path / "o.csv", tmp_path / "t.jsonl", path="meta")


def test_undecodable_file_names_are_kept_or_escaped(network, images, tmp_path):
    odd = tmp_path / os.fsdecode(b"na\xefve.png")
    shutil.copy(readable(images)[0], odd)
    write(network, tmp_path / "predictions.csv", [odd])
    assert os.fsencode(odd) in (tmp_path / "predictions.csv").read_bytes()
    write(network, tmp_path / "predictions.jsonl", [odd])
    assert json.loads((tmp_path / "predictions.jsonl").read_text())["file"] == str(odd)
    write(network, tmp_path / "predictions.parquet", [odd])
    assert list(pd.read_parquet(tmp_path / "predictions.parquet")["file"]) == [f"{tmp_path}/na\\udcefve.png"]


def test_user_mistake_is_one_line_and_leaves_no_file(network, images, tmp_path, monkeypatch):
    table, folder = tmp_path / "t.csv", tmp_path / "there"
    folder.mkdir()

    def refused(output, given, **options):
        with pytest.raises(UserError) as caught:
            write(network, folder / output, given, **options)
        assert len(str(caught.value).splitlines()) == 1 and not list(folder.iterdir())
        return str(caught.value)

    table.write_text("a,b\nx.png,1\n")
    found = refused("o.csv", table)
    assert found.startswith("path=<column>: expected one of the table's columns") and found.endswith(": a, b")
    assert "path=c: expected a column of the table: a, b" in refused("o.csv", table, path="c")
    assert "root=none: expected a folder that exists" in refused("o.csv", table, path="a", root="none")
    assert "expected one table alone, shards alone, or files and folders" in refused("o.csv", [table, images])
    assert "root=x: expected to be given with a table" in refused("o.csv", images, root="x")
    table.write_text("file,n\n")
    assert f"images={table}: expected a table with rows" in refused("o.csv", table)
    for nothing in ("", "a" * 300):
        assert f"images={nothing}: expected a file or folder, and there is none" in refused("o.csv", nothing)
    (tmp_path / "new day").mkdir()
    quoted = f"; a name with blanks is quoted: '{tmp_path}/new day'"
    assert refused("o.csv", [tmp_path / "new", "day"]).endswith(
        f"new: expected a file or folder, and there is none{quoted}"
    )
    assert "is quoted" not in refused("o.csv", [tmp_path / "new", "days"])
    assert "expected a file in a folder that exists" in refused(f"{'a' * 300}/o.csv", images)
    assert "expected a file that can be written (File name too long)" in refused(f"{'a' * 300}.csv", images)
    table.write_text("file,n\nx.png,1\n ,2\n")
    assert "expected a path in every row, but there is none in row 2" in refused("o.csv", table)
    table.write_text("file,error,predicted_error\nx.png,1,2\n")
    assert "expected a table without a column error or predicted_error" in refused("o.csv", table)
    table.write_text("file\nx.png,1\n")
    assert "expected a table whose rows have as many fields as its head" in refused("o.csv", table)
    assert "output=" in (message := refused("o.xlsx", images)) and ".parquet, .csv, .jsonl" in message
    assert "features=head: expected an output of .parquet or .jsonl" in refused("o.csv", images, features="head")
    assert "features=stage_2: expected one of stem, stage1, stage2, stage3, head; did you mean" in refused(
        "o.parquet", images, features="stage_2"
    )
    with monkeypatch.context() as patch:
        patch.setattr(cut, "cuttable", lambda *_: ())
        found = refused("o.parquet", images, features="stage2")
    assert "features=stage2: expected a stage above which shufflenet_v2_x0_5 can be cut" in found
    (tmp_path / "t.jsonl").write_text('{"file": "x.png"}\n[1]\n')
    assert "expected a table that can be read (line 2 is not an object)" in refused("o.csv", tmp_path / "t.jsonl")


def test_missing_images_are_rows(network, images, tmp_path):
    (tmp_path / "t.csv").write_text(f"path\n{readable(images)[0]}\nnone.png\n")
    written = frostline.Classifier(network).predict_table(tmp_path / "t.csv", tmp_path / "predictions.csv", batch=2)
    assert (written.rows, written.unread, written.examples) == (2, 1, ("none.png: missing, or a broken link",))


def test_ids_of_a_table_find_their_files(network, images, tmp_path):
    file = readable(images)[0]
    for name, place in (("whole", file), ("ids", str(file).rpartition(".")[0])):
        (tmp_path / f"{name}.csv").write_text(f"path\n{place}\n")
        frostline.Classifier(network).predict_table(tmp_path / f"{name}.csv", tmp_path / f"of_{name}.csv")
    whole, ids = (pd.read_csv(tmp_path / f"of_{name}.csv") for name in ("whole", "ids"))
    assert ids["path"][0] == str(file).rpartition(".")[0] and ids["error"].isna().all()
    assert ids["probability"][0] == whole["probability"][0]


SMALL_PARTS = """
import runpy
from frostline.runs import prediction_file
prediction_file._PART = 256
runpy.run_module("frostline", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_command_killed_twice_ends_with_the_same_bytes(trained, images, tmp_path):
    many = tmp_path / "list"
    many.write_text("\n".join(map(str, sorted(images.iterdir()) * 20)))
    words = ("predict", trained.folder / "1", "-", "--batch", 64, "--features", "head", "--output")
    command = [sys.executable, "-c", SMALL_PARTS, *map(str, words)]
    how = {"env": trained.environment(), "cwd": tmp_path}
    done = warm.run([*command, "whole.parquet"], **how, stdin=many.read_text())
    assert done.returncode == 1 and done.stdout == "whole.parquet: 1,000 images\n"
    assert "40 of 1,000 images could not be read: " in done.stderr
    parts_folder, kills = tmp_path / "predictions.parquet.parts", 0
    for count in (1, 2):
        with many.open() as listed, warm.Popen([*command, "predictions.parquet"], stdin=listed, **how) as process:
            while len(list(parts_folder.glob("*.part"))) < count and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
    assert kills == 2
    assert warm.run([*command, "predictions.parquet"], **how, stdin=many.read_text()).returncode == 1
    assert (tmp_path / "predictions.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts_folder.exists()


def test_images_may_be_given_as_urls(network, images, tmp_path):
    memory, file = fsspec.filesystem("memory"), images / "00 ü.png"
    memory.pipe("/there/a.png", file.read_bytes())
    places = ["memory://there/a.png", "memory://there/none.png", file]
    assert probabilities_of(network, places[:1]).equal(probabilities_of(network, [file]))
    with pytest.raises(UserError, match=r"^memory://there/none\.png: missing"):
        predict.probabilities(network, places[1:2])
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(map(str, places)) + "\n")
    for name, given in (("alone", places), ("table", tmp_path / "list.csv")):
        written = write(network, tmp_path / f"{name}.parquet", given)
        assert (written.rows, written.unread) == (3, 1)
        frame = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert list(frame.iloc[:, 0]) == list(map(str, places))
        assert frame["probability"][0] == frame["probability"][2] and frame["error"][1].startswith("missing")


def test_tilde_is_the_home_folder(network, images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(images.parent))
    assert write(network, tmp_path / "predictions.csv", f"~/{images.name}").rows == COUNT
    assert write(network, tmp_path / "one.csv", [f"~/{images.name}/00 ü.png"]).rows == 1


def test_foreign_output_file_is_not_overwritten(network, images, tmp_path, monkeypatch):
    file, table = tmp_path / "predictions.csv", tmp_path / "labels.csv"
    write(network, file, images)
    assert not write(network, file, images, top=3).before  # an unchanged file of ours may be replaced
    replace_file = prediction_file._join

    def join_and_die(*arguments):
        replace_file(*arguments)
        raise Kill  # before the note that describes the file

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(prediction_file, "_join", join_and_die)
        write(network, file, images)
    assert not write(network, file, images).before
    file.write_text(file.read_text() + "a note of mine\n")
    table.write_text(f"path\n{readable(images)[0]}\n")
    for own, given in ((file, images), (table, table)):
        before = own.read_text()
        with pytest.raises(UserError, match=r"^output=.*csv: expected a new file; this one was written or changed"):
            write(network, own, given)
        assert own.read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.csv", ".predictions.csv.json", "labels.csv"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_longest_possible_file_name_is_written(network, images, tmp_path, suffix):
    output = tmp_path / ("a" * (249 - len(suffix)) + suffix)
    assert write(network, output, images).rows == COUNT and output.stat().st_size
    with pytest.raises(UserError, match="File name too long"):
        write(network, tmp_path / ("a" * (250 - len(suffix)) + suffix), images)
