"""Arguments of commands."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from disk import file_size_limit
from frostline import commands
from frostline.commands import advise, predictions
from frostline.core.errors import UserError, user_error


def test_predictions_that_a_full_disk_would_truncate_leave_the_older_file(tmp_path, monkeypatch):
    rows = pd.DataFrame({"image": range(100), "right": True})
    monkeypatch.setattr(predictions, "_meant", lambda *_: SimpleNamespace(test_images=lambda: rows))
    (output := tmp_path / "rows.csv").write_text("older")
    with file_size_limit(100), pytest.raises(UserError, match=f"^--output={output}: expected a place that can be"):
        predictions.main(["a run", "-o", str(output)])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("rows.csv", "older")]
    assert predictions.main(["a run", "-o", str(output)]) == 0
    assert output.read_text() == rows.to_csv(index=False)


def test_empty_value_is_refused_where_argparse_parses_mixed_arguments_at_once(monkeypatch):
    """Since Python 3.14 mixed arguments are not parsed by way of `parse_known_args`."""

    def at_once(self, args=None, namespace=None):
        return argparse.Namespace(config_dir=None, overrides=[]), []

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_intermixed_args", at_once)
    with pytest.raises(UserError, match=r"^--config-dir=: expected a value"):
        commands.with_overrides(commands.Parser("data"), ["--config-dir="], "a run")


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            "store store.path=",
            "store.path=: expected no config key, since frostline store takes none; did you mean --path?",
        ),
        ("store clear lr=1", "lr=1: expected no config key, since frostline store takes none (see frostline store"),
        (
            "predict run a.png device=cpu",
            "device=cpu: expected no config key, since frostline predict takes none; did you",
        ),
        (
            "ui tracking.uri=",
            "tracking.uri=: expected no config key, since frostline ui takes none; did you mean --uri?",
        ),
        ("ui --port 65536", "argument --port: expected a port from 0 to 65535, not 65536 (see frostline ui --help)"),
        ("store --path= clear", "--path=: expected a value, and there is none: an empty shell variable"),
        ("store --path '' clear", "--path=: expected a value"),
        ("store clear --older-than=", "--older-than=: expected a value"),
        ("mend --uri=", "--uri=: expected a value"),
        ("data --config-dir=", "--config-dir=: expected a value"),
        ("report sweep -o ''", "-o=: expected a value"),
        ("sync ''", "folder=: expected the folder of a sweep"),
        ("watch ''", "sweep=: expected the folder of a sweep"),
        ("sync nope", "folder=nope: expected the folder of a sweep that was recorded"),
        ("compare .", "sweep=.: expected the folder of a sweep, with its sweep.json"),
        (
            "predict nope images --device gpu",
            "--device=gpu: expected auto, cpu or, for GPUs of NVIDIA and AMD, cuda or",
        ),
        ("export ./nope --format pt2 --output net.onnx", "--output=net.onnx: expected a file whose name ends in .pt2"),
        ("export ./nope --format pt2", "run=./nope: expected a folder, an MLflow run id"),
        ("rerun run hydra.sweep.dir=", "hydra.sweep.dir=: expected a folder"),
        ("data store.path=", "store.path=: expected a text; nothing is written null"),
        ("data data=image_folder data.root=", "data.root=: expected the place of the images; . is the working"),
    ],
)
def test_empty_values_and_config_keys_are_one_line(
    typed: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_STORE", str(tmp_path / "store"))
    name, *arguments = (word.strip("'") for word in typed.split(" "))
    with pytest.raises(UserError) as caught:
        commands.run(name, arguments)
    assert str(caught.value).startswith(line)


def test_number_of_images_is_named_by_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(overrides: object, *, images: int, screen: object) -> None:
        raise user_error("images", images, "at least 20")

    monkeypatch.setattr(advise.advice, "advise", refuse)
    with pytest.raises(UserError, match=r"^--images=3: expected at least 20$"):
        commands.run("advise", ["--images", "3"])


def test_files_and_option_values_may_look_like_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=1").touch()
    parser = commands.Parser("test")
    parser.add_argument("file")
    parser.add_argument("--name")
    asked = parser.parse_args(["lr=1", "--name", "lr=2"])
    assert (asked.file, asked.name) == ("lr=1", "lr=2")


def test_python_without_frostline_says_how_to_install_it() -> None:
    asked = [sys.executable, "-I", "-S", str(Path(__file__).parents[2] / "train.py")]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("No module named 'frostline': `make sweep` installs it")
