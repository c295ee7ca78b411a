"""How the terminal and the report describe a run's adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frostline.records import sweep_record
from frostline.report import adapter_words, html, page_data
from frostline.report.cells import cells
from frostline.report.result_tables import cells_table
from written_sweeps import sweep

LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 16.0, "use_dora": False}
NUMBERS = {"cost/adapter_parameters": 294_912.0, "cost/adapter_bytes": 1_190_000.0}


def sweep_with_adapter(folder: Path, facts: dict[str, object], metrics: dict[str, float]) -> Path:
    """Write a sweep of two runs, of which only the second has an adapter, and return its folder."""
    sweep(folder, {"freeze_mode": ["head", "full"]})
    own = folder / "1"
    result = json.loads((own / "result.json").read_text())
    result["metrics"] |= metrics
    (own / "result.json").write_text(json.dumps(result))
    (own / "adapter").mkdir()
    (own / "adapter" / "adapter_config.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize(
    ("facts", "error", "full", "short"),
    [
        (
            LORA,
            2e-7,
            "lora rank=8 alpha=16, 294,912 parameters, 1.19 MB, merged to within 2e-07 of the largest logit",
            "lora r=8",
        ),
        (LORA, 0.0, "lora rank=8 alpha=16, 294,912 parameters, 1.19 MB, merged without a difference", "lora r=8"),
        ({**LORA, "use_dora": True, "r": 4}, None, "dora rank=4 alpha=16, 294,912 parameters, 1.19 MB", "dora r=4"),
        ({"peft_type": "IA3"}, None, "ia3, 294,912 parameters, 1.19 MB", "ia3"),
        (
            {"kind": "bottleneck", "rank": 9},
            None,
            "bottleneck rank=9, 294,912 parameters, 1.19 MB",
            "bottleneck r=9",
        ),
        ({"kind": "prompt", "tokens": 10}, None, "prompt tokens=10, 294,912 parameters, 1.19 MB", "prompt"),
    ],
)
def test_adapter_description_has_kind_size_and_merge_error(
    facts: dict[str, object], error: float | None, full: str, short: str, tmp_path: Path
) -> None:
    numbers = NUMBERS | ({} if error is None else {"test/merge_error": error})
    plain, result = sweep_record.read(sweep_with_adapter(tmp_path / "s", facts, numbers)).results
    assert (adapter_words.full(result), adapter_words.short(result)) == (full, f"{short}, 1.19 MB")
    assert (adapter_words.full(plain), adapter_words.short(plain)) == ("", "-")


def test_without_its_file_an_adapter_keeps_its_numbers(tmp_path: Path) -> None:
    _, result = sweep_record.read(sweep_with_adapter(tmp_path / "s", LORA, NUMBERS)).results
    (tmp_path / "s" / "1" / "adapter" / "adapter_config.json").unlink()
    assert adapter_words.full(result) == "adapter, 294,912 parameters, 1.19 MB"


def test_adapter_column_appears_only_if_a_run_has_one(tmp_path: Path) -> None:
    found = sweep_record.read(sweep_with_adapter(tmp_path / "s", LORA, NUMBERS)).results
    table = cells_table(cells(found), ["freeze_mode"])
    shown = {str(column.header): [str(text) for text in column.cells] for column in table.columns}
    assert sorted(zip(shown["freeze_mode"], shown["adapter"], strict=True)) == [
        *(("full", "lora r=8, 1.19 MB"), ("head", "-"))
    ]
    assert "adapter" not in {str(one.header) for one in cells_table(cells(found), ["freeze_mode"], limit=60).columns}
    page = html.write(tmp_path / "report.html", found, title="s").read_text()
    assert "<th>adapter</th>" in page
    assert page.count(">lora rank=8 alpha=16, 294,912 parameters, 1.19 MB</div></td>") == 1
    data = page_data.collect(found, (), page=tmp_path / "report.html", tracker=None)
    assert [run["adapter"] for run in data["runs"]] == ["", "lora rank=8 alpha=16, 294,912 parameters, 1.19 MB"]
    plain = html.write(tmp_path / "plain.html", found[:1], title="s").read_text()
    assert "<th>adapter</th>" not in plain
    assert "adapter" not in {str(one.header) for one in cells_table(cells(found[:1]), []).columns}
