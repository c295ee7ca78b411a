"""Splits by time: test images are newer than val images, and these are newer than train images."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_tables import NONE, as_csv, load, numbers, rows

from frostline.core.errors import UserError
from frostline.data import splitting, times
from frostline.data.source import Source
from frostline.data.splitting import Selection
from numbered import disjoint, findings
from small import data_config, load_data


def divided(moments: list[float], labels: list[int] | None = None, groups: list[int] | None = None, **how: Any) -> Any:
    found = Source(
        torch.tensor(labels or [0] * len(moments)),
        ("cat", "dog", "owl"),
        lambda _: Image.new("RGB", (1, 1)),
        str,
        groups=None if groups is None else torch.tensor(groups),
        times=times.read("taken", list(map(str, moments))),
    )
    how = {"source": "table", "val_fraction": 0.2, "test_fraction": 0.2, **how}
    return splitting.divide({"train": found}, data_config(**how))


def times_of(part: Selection, moments: list[float]) -> list[float]:
    return [moments[row] for row in part.ids.tolist()]


def test_test_split_is_newest_and_train_oldest() -> None:
    moments = [float(number) for number in range(100)]
    random.Random(0).shuffle(moments)
    parts = divided(moments, split_seed=3)
    assert sorted(times_of(parts["test"], moments)) == list(range(80, 100))
    assert sorted(times_of(parts["val"], moments)) == list(range(64, 80))
    assert sorted(times_of(parts["train"], moments)) == list(range(64))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), min_size=12, max_size=60), st.booleans())
def test_train_is_strictly_older_than_val_and_test(pairs: list[tuple[int, int]], grouped: bool) -> None:
    moments, groups = [float(when) for when, _ in pairs], [group for _, group in pairs]
    try:
        parts = divided(moments, groups=groups if grouped else None)
    except UserError as error:  # too few moments, or groups that span them all
        assert str(error).startswith(("data.options.time=taken: expected a column of several times", "data.val_frac"))
        return
    every = torch.cat([part.ids for part in parts.values()]).sort().values
    assert torch.equal(every, torch.arange(len(pairs)))
    seen = {name: {groups[row] for row in part.ids.tolist()} for name, part in parts.items()}
    latest = {group: max(when for when, own in pairs if own == group) for group in groups}
    if grouped:
        assert disjoint(*seen.values())
        as_late = {name: [latest[groups[row]] for row in part.ids.tolist()] for name, part in parts.items()}
    else:
        as_late = {name: times_of(part, moments) for name, part in parts.items()}
    assert max(as_late["train"]) < min(as_late["val"]) and max(as_late["val"]) < min(as_late["test"])


def test_ties_in_time_stay_in_one_split() -> None:
    moments = [1.0] * 50 + [2.0] * 30 + [3.0] * 12 + [4.0] * 8
    assert [len(divided(moments)[name].ids) for name in ("test", "val", "train")] == [20, 30, 50]
    assert len(divided(moments, test_fraction=0.01)["test"].ids) == 8


def test_latest_image_dates_the_whole_group() -> None:
    moments = [float(number) for number in range(20)]
    groups = [*range(20)]
    groups[0] = groups[19]
    parts = divided(moments, groups=groups)
    assert sorted(times_of(parts["test"], moments)) == [0, 17, 18, 19]
    assert sorted(times_of(parts["val"], moments)) == [14, 15, 16]


def test_impossible_splits_are_refused() -> None:
    ten = [float(number) for number in range(10)]

    def refused(*arguments: Any, **how: Any) -> str:
        with pytest.raises(UserError) as caught:
            divided(*arguments, **how)
        return str(caught.value)

    assert refused(ten, [0] * 9 + [1]) == (
        "data.options.time=taken: expected images of every class before 8.0, where test begins, but none of dog"
    )
    assert refused([5.0] * 10).startswith("data.options.time=taken: expected a column of several times")
    assert refused([1.0] * 5 + [2.0] * 5).endswith("copies of an image, and a group, count as one time")
    assert refused(ten, test_fraction=0.0) == (
        "data.test_fraction=0.0: expected a fraction that leaves at least one image for test"
    )
    assert refused(ten, folds=5) == (
        "data.folds=5: expected null, since data.options.time=taken takes the latest images for test"
    )


@pytest.mark.parametrize(
    "write",
    ids=("date", "offset", "zones", "exif", "mixed", "decimal", "nanoseconds", "integer"),
    argvalues=[
        lambda day, number: f"{day:%Y-%m-%d}",
        lambda day, number: f"{day:%Y-%m-%dT%H:%M:%S+02:00}",
        lambda day, number: f"{day:%Y-%m-%dT%H:%M:%S}{('', '+02:00', '-11:00')[number % 3]}",
        lambda day, number: f"{day:%Y:%m:%d %H:%M:%S}",
        lambda day, number: f"{day:%Y-%m-%d}" if number % 2 else f"{day:%Y-%m-%d 10:30}",
        lambda day, number: f"{number - 7.5}",
        lambda day, number: f"{1_600_000_000_000_000_000 + number * 10**9}",
        lambda day, number: f"{9 + number}",  # 9 before 10: compared as numbers, not as text
    ],
)
def test_dates_and_numbers_are_ordered(write: Any) -> None:
    days = [datetime(2019, 12, 25, tzinfo=UTC) + timedelta(days=number) for number in range(30)]
    order = random.Random(1).sample(range(30), 30)
    assert times.read("t", [write(days[number], number) for number in order]).ranks.tolist() == order


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        (["2021-03-04", "yesterday"], "yesterday"),
        (["1", ""], "(nothing)"),
        (["1", "nan"], "nan"),
        (["03/04/2021"], "03/04/2021"),
        (["2021-02-30"], "2021-02-30"),
    ],
)
def test_other_texts_are_refused(values: list[str], odd: str) -> None:
    with pytest.raises(UserError) as caught:
        times.read("taken", values)
    expected = "a column of dates such as 2021-03-04 or 2021-03-04 10:30, or of numbers"
    assert str(caught.value) == f"data.options.time=taken: expected {expected}, not of {odd}"


def test_table_is_split_by_its_time_column(tmp_path: Path) -> None:
    days = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=5 * (number // 4)) for number in range(200)]
    table = [row | {"taken_at": f"{day:%Y-%m-%d}"} for row, day in zip(rows(tmp_path, 200), days, strict=True)]
    random.Random(0).shuffle(table)
    as_csv(tmp_path / "t.csv", table)
    hint = "column taken_at is not used: data.options.time=taken_at tests on the latest images"
    assert findings(load(tmp_path / "t.csv"), hint)[0].about == hint
    data = load(tmp_path / "t.csv", time="taken_at")
    assert sorted(numbers(data.test)) == list(range(160, 200))
    assert sorted(numbers(data.val)) == list(range(128, 160))
    (finding,) = findings(data, "split by")
    assert finding.about == (
        f"split by taken_at: train 2020-01-01 to {days[127]:%Y-%m-%d}, val {days[128]:%Y-%m-%d} to "
        f"{days[159]:%Y-%m-%d}, test {days[160]:%Y-%m-%d} to {days[199]:%Y-%m-%d}"
    )
    pd.DataFrame(table).assign(taken_at=lambda frame: pd.to_datetime(frame["taken_at"])).to_parquet(
        tmp_path / "t.parquet"
    )
    second = load(tmp_path / "t.parquet", time="taken_at")
    assert second.fingerprint == data.fingerprint


def test_own_test_split_is_kept_and_val_is_latest(tmp_path: Path) -> None:
    table = [
        row | {"year": 2000 + number, "split": "test" if number < 10 else "train"}
        for number, row in enumerate(rows(tmp_path, 60))
    ]
    as_csv(tmp_path / "t.csv", table)
    data = load(tmp_path / "t.csv", time="year")
    assert sorted(numbers(data.test)) == list(range(10)) and sorted(numbers(data.val)) == list(range(50, 60))
    as_csv(tmp_path / "all.csv", [row | {"split": ("train", "val", "test")[n % 3]} for n, row in enumerate(table)])
    with pytest.raises(
        UserError, match=r"^data.options.time=year: expected null, since the table defines val and test in column split"
    ):
        load_data(source="table", root=str(tmp_path / "all.csv"), options={**NONE, "time": "year"})
