"""The HTML report: its numbers, escaping, links, size, and independence of the network."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.metrics import f1_score

from frostline.core.metrics import MAP
from frostline.records import journal, sweep_record
from frostline.records.result import TEST, VAL, percent
from frostline.report import calibration, html, page_assets, plots, predictions, statistics
from frostline.report.contest import contests
from frostline.report.terminal import sentences
from frostline.report.verdict import answer
from written_sweeps import CLASSES, sweep

MODES = ("head", "full")


class Page(HTMLParser):
    """The elements of a page and the text of its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = path.read_text(encoding="utf-8")
        self._open: str | None = None
        self.feed(self.text)
        self.data = json.loads(self.scripts["data"])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or "code" if tag == "script" else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.scripts[self._open] = self.scripts.get(self._open, "") + data


def page(folder: Path) -> Page:
    found = sweep_record.read(folder)
    return Page(html.write(folder / "report.html", found.results, title=f"<b>{folder.name}", tracker=found.tracker))


def test_page_has_the_numbers_of_the_runs(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES, "lr": [1e-2, 1e-3]}, seeds=2)
    shown, results = page(folder).data, sweep_record.read(folder).results
    for run, result in zip(shown["runs"], results, strict=True):
        assert run["name"] == result.name and run["status"] == "FINISHED"
        assert run["val"] == pytest.approx(result.metrics[VAL], abs=1e-5)
        assert run["test"] == pytest.approx(result.metrics[TEST], abs=1e-5)
    (group,) = shown["groups"]
    gap = contests(results)[0].difference
    assert gap.gap > 0 and f'">{100 * gap.gap:.1f} (' in page(folder).text  # behind the first: without a plus
    assert len(group["cells"]) == 4
    for cell in group["cells"]:
        runs = [results[number] for number in cell["runs"]]
        assert {run.choices["lr"] for run in runs} == {cell["at"]["lr"]} and len(runs) == 2
        assert cell["val"][0] == pytest.approx(np.mean([run.metrics[VAL] for run in runs]), abs=1e-5)
    best = group["contenders"][0]
    predicted = [predictions.read(results[number].folder) for number in best["runs"]]
    parts = [(one.confidence, one.predicted == one.labels) for one in predicted]
    confidence, right = (np.concatenate(part) for part in zip(*parts, strict=True))
    assert best["calibration"]["ece"] == pytest.approx(calibration.calibration(confidence, right).ece, abs=1e-5)
    assert np.average(best["accuracy"], weights=best["images"]) == pytest.approx(best["test"][0], abs=1e-4)
    right = [round(share * total) for share, total in zip(best["accuracy"], best["images"], strict=True)]
    seeds = best["seeds"][0]
    for (low, high), hits, total in zip(best["within"], right, best["images"], strict=True):
        within = statistics.wilson(round(hits / seeds), round(total / seeds))
        assert (low, high) == pytest.approx((within.low, within.high), abs=1e-4)
    macro = [f1_score(one.labels, one.predicted, average="macro") for one in predicted]
    assert best["over_classes"]["macro F1"] == pytest.approx(np.mean(macro), abs=1e-4)


def test_class_intervals_account_for_image_groups(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": ["full"]}, seeds=2)
    for run in "01":
        found = load_file(folder / run / "test_predictions.safetensors")
        found["groups"] = np.where(found["labels"] == 3, 0, found["ids"] // 30)  # all images of class 3 in one group
        save_file(found, folder / run / "test_predictions.safetensors")
    (best,) = page(folder).data["groups"][0]["contenders"]
    predicted = [predictions.read(str(folder / run)) for run in "01"]
    for kind, ends in enumerate(best["within"]):
        right = np.concatenate([(one.predicted == kind)[one.labels == kind] for one in predicted])
        groups = np.concatenate([one.groups[one.labels == kind] for one in predicted])
        worth = statistics.effective_images(right, groups, 2)
        within = statistics.wilson(right.mean() * worth, worth) if worth else None
        assert (worth == 0) == (kind == 3)
        assert ends == ([None, None] if within is None else pytest.approx([within.low, within.high], abs=1e-6))


def test_runs_and_cells_name_a_series_with_a_colour(tmp_path):
    shown = page(sweep(tmp_path / "s", {"lr": [1e-3, 3e-5, 1e-5]})).data  # floats have more than one short form
    assert shown["key"] == "lr" and len(set(shown["looks"].values())) == 3
    assert {run["series"] for run in shown["runs"]} == shown["looks"].keys()
    assert {cell["series"] for cell in shown["groups"][0]["cells"]} == shown["looks"].keys()


def test_page_scripts_define_no_name_twice():
    code = "\n".join(page_assets.text(name) for name in ("page.js", "search.js"))
    names = re.findall(r"^(?:function|const|let) ([a-zA-Z]\w*)", code, re.MULTILINE)
    names += [name for group in re.findall(r"^const \[([\w, ]+)\]", code, re.MULTILINE) for name in group.split(", ")]
    assert len(names) > 60 and sorted(names) == sorted(set(names))


def test_shortened_shares_round_as_in_the_table():
    for images in (359, 1_000, 7_919):
        for right in range(images + 1):
            share = right / images
            assert percent(page_assets.shortened(share)) == percent(share)


def test_page_has_the_verdict_as_text(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES, "lr": [1e-2, 1e-3]})
    plain = unescape(re.sub(r"<[^>]+>", "", re.search(r'<p class="verdict".*?</p>', page(folder).text, re.S)[0]))
    verdict = answer(sweep_record.read(folder).results).replace("`", "")
    assert " ".join(plain.split()) == verdict


def test_each_sentence_of_the_verdict_has_a_line_and_commands_can_be_copied(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES, "lr": [1e-2, 1e-3]})
    found = page(folder)
    said = sentences(answer(sweep_record.read(folder).results))
    shown = re.search(r'<p class="verdict".*?</p>', found.text, re.S)[0]
    assert len(said) > 3 and shown.count('<span class="then">') == len(said) - 1
    commands = re.findall(r"`(python [^`]*)`", " ".join(said))
    assert commands and re.findall('<code class="again" title="copy">(.*?)</code>', shown) == commands
    before, after = found.text.split("<noscript>")  # a reader without JavaScript needs no scrolling to it
    assert "</table>" in before and '<section id="cost">' in after


def test_table_of_a_data_set_has_the_keys_that_differ_there(tmp_path):
    found = page(sweep(tmp_path / "s", {"freeze_mode": MODES, "lr": [1e-2, 1e-3], "data.limit": [100, 200]}))
    tables = re.findall(r'<div class="scroll" data-group="\d">(.*?)</div>', found.text, re.S)
    assert len(tables) == 2 and all(">lr<" in table and "data.limit" not in table for table in tables)


def test_page_has_the_largest_class_baseline(tmp_path):
    found = page(sweep(tmp_path / "s", {"freeze_mode": MODES}))
    labels = predictions.read(str(tmp_path / "s" / "0")).labels
    share = np.bincount(labels).max() / len(labels)
    assert f'always {CLASSES[0]}, the largest class</span></td><td class="number">{share:.2%}' in found.text


def test_page_defines_accuracy_for_several_labels(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES})
    data, (contest,) = page(folder).data, contests(sweep_record.read(folder).results)
    explanation = "the images whose classes are all right"
    assert explanation not in html._contenders(0, contest, data)
    data["groups"][0]["contenders"][0]["f1"] = [0.5]  # only images of several classes have it
    assert explanation in html._contenders(0, contest, data)
    assert explanation not in html._contenders(0, replace(contest, by=MAP), data)


def test_confusions_of_many_classes_show_the_most_confused(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES}, classes=[f"class {i}" for i in range(120)])
    for one in page(folder).data["groups"][0]["contenders"]:
        assert len(one["shown"]) == 100 and len(one["images"]) == 120
        rows, columns, counts = one["confusion"]
        pairs = {(one["shown"][i], one["shown"][j]): n for i, j, n in zip(rows, columns, counts, strict=True)}
        assert all(pairs[true, predicted] == times for true, predicted, times, _ in one["pairs"])


def test_names_are_escaped(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES, "data": ["digits", "</script><script>alert(1)</script>"]})
    found = page(folder)
    assert [attrs.get("id") for tag, attrs in found.tags if tag == "script"] == [
        *("data", "plotly", "tables", "tables-style", None)
    ]
    assert {tuple(one["classes"]) for group in found.data["groups"] for one in group["contenders"]} == {CLASSES}
    assert "alert(" not in re.sub(r'<script type="application/json".*?</script>', "", found.text).replace(
        "&lt;script&gt;alert(1)", ""
    )
    assert found.text.count("<b>") == 0


def test_page_includes_its_libraries_and_loads_nothing(tmp_path):
    found = page(sweep(tmp_path / "s", {"freeze_mode": MODES}))
    for _, attrs in found.tags:
        assert not (attrs.get("src") or attrs.get("href") or "data:").startswith(("http", "//"))
    libraries = [gzip.decompress(base64.b64decode(found.scripts[name])).decode() for name in ("plotly", "tables")]
    assert "Plotly" in libraries[0] and "DataTable" in libraries[1]


@pytest.mark.slow
def test_report_command_imports_no_heavy_libraries(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES})
    heavy = {"itables", "matplotlib", "mlflow", "pandas", "plotly", "pyarrow", "torch"}
    code = f"import sys, frostline; frostline.open(sys.argv[1]).report(); print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert (folder / "report.html").is_file() and done.stdout.strip() == ""


def test_failed_and_running_runs_are_shown(tmp_path):
    states = {0: "FAILED", 2: "RUNNING", 3: "WAITING"}
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES, "lr": [1e-2, 1e-3]}, states=states, epochs=8)
    shown = page(folder).data
    assert [run["status"] for run in shown["runs"]] == ["FAILED", "FINISHED", "RUNNING", "WAITING"]
    assert shown["runs"][0]["reason"].startswith("Diverged") and shown["runs"][0]["val"] is None
    assert [curve["epoch"] for curve in shown["curves"]] == [[1, 2, 3, 4], [*range(1, 9)], [1, 2, 3, 4], []]
    assert "No run of full has finished yet." in shown["groups"][0]["verdict"]


@pytest.mark.parametrize("status", ["FAILED", "RUNNING", "WAITING"])
def test_sweep_without_finished_runs_has_a_page(tmp_path, status):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES}, states={0: status, 1: status})
    assert "No answer: none of 2 runs finished." in page(folder).text


@pytest.mark.slow
def test_page_of_200_runs_is_below_5_mb(tmp_path):
    grid = {"freeze_mode": ["head", "full", "lp_ft", "gradual"], "lr": [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]}
    folder = sweep(tmp_path / "s", {**grid, "weight_decay": [0.0, 1e-3]}, seeds=5, epochs=60)
    found = page(folder)
    assert len(found.data["runs"]) == 200 and found.data["keys"] == ["lr", "weight_decay"]
    assert len(found.text.encode()) < 5e6
    assert all(curve["epoch"][-1] == 60 for curve in found.data["curves"])
    assert max(len(curve["epoch"]) for curve in found.data["curves"]) <= 61


def test_links_are_relative_to_the_sweep_folder(tmp_path):
    tracker = {"uri": "https://mlflow.example.org/", "experiment_id": "7", "sweep_run_id": "0" * 32}
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES}, tracker=tracker)
    run = page(folder).data["runs"][1]
    assert (folder / run["folder"] / "config.yaml").is_file()
    assert run["mlflow"] == f"https://mlflow.example.org/#/experiments/7/runs/{1:032x}?workflowType=machine_learning"
    assert run["again"] == f"python train.py rerun={1:032x}"
    moved = folder.rename(tmp_path / "moved")
    assert page(moved).data["groups"][0]["contenders"][0]["confusion"]


def test_run_mirrored_after_its_end_is_linked(tmp_path):
    tracker = {"uri": "https://mlflow.example.org/", "experiment_id": "7", "sweep_run_id": "0" * 32}
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES}, tracker=tracker)
    written = folder / "1" / "result.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | {"run_id": None}))
    assert page(folder).data["runs"][1]["mlflow"] is None
    journal.set_position(folder / "1", journal.MirrorPosition("a" * 32, 100))
    run = page(folder).data["runs"][1]
    assert "/runs/" + "a" * 32 in run["mlflow"] and run["again"] == f"python train.py rerun={'a' * 32}"


def test_damaged_epoch_records_do_not_prevent_the_page(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES})
    lacking = '{"epoch": 1}\n{"epoch": 2, "phase": 1, "val/accuracy": null}\n'
    for content in (lacking, lacking.replace("null", f"{10**400}"), '{"val/accuracy": 0.5}\n'):
        for number in (0, 1):
            (folder / str(number) / "metrics.jsonl").write_text(content)
        epochs = [curve["epoch"] for curve in page(folder).data["curves"]]
        assert epochs == [[1, 2] if "epoch" in content else []] * 2
        assert plots.write(tmp_path / "plots", sweep_record.read(folder).results)


def test_tiles_show_images_on_which_the_best_two_differ(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES})
    (group,) = page(folder).data["groups"]
    predicted = [predictions.read(str(folder / str(number))) for number in (1, 0)]  # full is the better one
    differ = predicted[0].predicted != predicted[1].predicted
    found = group["disagreements"]
    assert found["differ"] == differ.sum() > 0 and found["tiles"]
    for source, label, first, second in found["tiles"]:
        assert source.startswith("data:image/jpeg;base64,") and first != second
        assert label in range(len(CLASSES))


def test_folds_are_repeats_as_seeds_are(tmp_path):
    found = page(sweep(tmp_path / "s", {"freeze_mode": MODES, "data.fold": [0, 1]}, seeds=2)).data
    assert found["repeated"] == ["seed", "data.fold"] and found["swept"] == ["freeze_mode"]
    assert [run["repeat"] for run in found["runs"][:4]] == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert found["groups"][0]["disagreements"]["of"] == ["in fold 0", "with seed 0"]
    alone = page(sweep(tmp_path / "t", {"freeze_mode": MODES})).data
    assert alone["repeated"] == [] == alone["groups"][0]["disagreements"]["of"]


def test_confusion_images_come_from_all_seeds(tmp_path):
    (group,) = page(sweep(tmp_path / "s", {"freeze_mode": MODES}, seeds=4)).data["groups"]
    assert group["disagreements"]["of"] == ["with seed 0"]
    for one in group["contenders"]:
        assert one["pairs"] and all(shown for _, _, _, shown in one["pairs"])
        assert all(len(shown) == len(set(shown)) <= 4 for _, _, _, shown in one["pairs"])


def test_waiting_run_has_no_rerun_command(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES}, states={1: "WAITING"})
    assert [bool(run["again"]) for run in page(folder).data["runs"]] == [True, False]


def test_page_has_robustness_and_phases(tmp_path):
    folder = sweep(tmp_path / "s", {"freeze_mode": ["head", "lp_ft"]}, shift=True, epochs=10)
    shown = page(folder).data
    assert [curve["starts"] for curve in shown["curves"]] == [[], [6]]
    assert shown["groups"][0]["contenders"][0]["shift"]["noise"][4] == pytest.approx(0.94 - 0.25)
