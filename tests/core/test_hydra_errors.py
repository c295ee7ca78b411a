"""An error in a user's option file is one line with the file's name."""

from __future__ import annotations

import shlex
from pathlib import Path

import hydra
import pytest
from hydra.errors import HydraException

from frostline.core.errors import UserError
from frostline.core.hydra_errors import explain, unreadable
from frostline.sweeps.compose import compose_grid, compose_one, composing


@pytest.mark.parametrize(
    ("option", "content", "line"),
    [
        ("freeze_mode/mine", b"name: [\n", "{file}, line 2: expected YAML, and this is none ("),
        ("freeze_mode/mine", b"name: a\nname: b\n", "{file}, line 2: expected YAML, and this is none (found duplicate"),
        ("freeze_mode/mine", b"name: \xff\n", "{file}: expected YAML, a text in UTF-8 ("),
        ("freeze_mode/mine", b"name: \x00\n", "{file}: expected YAML, a text in UTF-8 ("),
        ("freeze_mode/mine", b"nme: a\n", "freeze_mode/mine.yaml: nme=?: expected a key, one of name, "),
        (
            "freeze_mode/mine",
            b"name: a\nphases: [{rule: []}]\n",
            "freeze_mode/mine.yaml: rule=?: expected a key, one of",
        ),
        ("freeze_mode/mine", b"- a\n", "freeze_mode/mine.yaml: expected keys and values"),
        (
            "optimizer/mine",
            b"name: adam\nweight_decay: x\n",
            "optimizer/mine.yaml: optimizer.weight_decay=x: expected a ",
        ),
        ("experiment/mine", b"lr: 1\n", "experiment/mine.yaml: expected to begin with `# @package _global_`"),
        ("experiment/mine", b"# @package _global_\nlrr: 1\n", "experiment/mine.yaml: lrr=?: expected a key, one of "),
    ],
)
def test_error_in_an_option_file_names_the_file(
    option: str, content: bytes, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "conf" / f"{option}.yaml"
    file.parent.mkdir(parents=True)
    (file.parent / "another.yaml").write_text("name: [\n")
    file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for compose in (compose_one, compose_grid):
        with pytest.raises(UserError) as caught:
            compose([option.replace("/", "=")])
        assert str(caught.value).startswith(line.format(file=file))


@pytest.mark.parametrize(
    ("override", "typed"),
    [("lr=1e-3,1e-4", "lr=1e-3,1e-4"), ("lr=choice(auto)", "lr=auto"), ("lr=interval(0,1)", "lr=interval(0,1)")],
)
def test_config_of_a_list_is_refused_as_the_config_of_one_run(override: str, typed: str) -> None:
    with composing(), pytest.raises(HydraException) as caught:
        hydra.compose("config", [override])
    for flag in (["--cfg", "job"], ["-c=job"]):
        line = str(explain(caught.value, [*flag, override]))
        assert line == f"{typed}: expected one value, since --cfg shows the config of one run"
    assert "for one run; " in str(explain(caught.value, [override]))


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("lr", "lr: expected lr=<value>"),
        ("model", "model: expected model=<value>"),
        ("lr:0.1", "lr:0.1: expected lr=0.1"),
        ("predict", "predict: expected as the first word, since it is a command (frostline predict --help)"),
        ("train", "train: expected key=value, or a command first (predict); a value with a blank in it is quoted"),
        ("=", "=: expected key=value, or a command first (predict); without blanks around ="),
        ("help", "help: expected key=value, or a command first (predict); did you mean --help?"),
        ("lr = 1", "lr = 1: expected no blanks around the key: lr=1"),
    ],
)
def test_word_that_is_no_override_is_explained(word: str, line: str) -> None:
    assert str(unreadable(word, ["predict"])).startswith(line)


def test_name_of_a_primary_config_that_is_not_there_is_one_line() -> None:
    with composing(), pytest.raises(HydraException) as caught:
        hydra.compose("nope")
    assert str(explain(caught.value, [])).startswith("--config-name=nope: expected the name of a config, which is ")


@pytest.mark.parametrize(
    "typed",
    ["lr=0.1", "lr=0.1,0.2", "optimizer.weight_decay=0.1", "freeze=head", "model=resnet18"],
)
def test_plus_before_a_key_that_is_there_is_refused(typed: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_grid([f"+{typed}"])
    assert str(caught.value) == f"{typed}: expected no + before it, as the config has this key: {shlex.quote(typed)}"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("+data.splits.train=a", "data.splits.train=a: expected keys within it, as in data.splits.train.<key>=<value>"),
        ("+data.splits={train:a}", "data.splits.train=?: expected keys within it, as in data.splits.train.<key>="),
        ("freeze_mode.phases=3", "freeze_mode.phases=3: expected a list in brackets"),
    ],
)
def test_value_in_place_of_keys_or_a_list_is_refused(override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_one([override])
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("augment=1", "augment=1: expected one of crop_flip, none, standard, trivial"),
        ("augment=none,null", "augment=null: expected one of crop_flip, none, standard, trivial"),
        ("experiment=true", "experiment=true: expected one of cifar10_resnet50, pretrain_glyphs, small_data"),
        ("augment=[none,2]", "augment=2: expected one of crop_flip, none, standard, trivial"),
        ("augment={a:2}", 'augment={"a": 2}: expected one of crop_flip, none, standard, trivial'),
        ("augment=range(1,3)", "augment=range(1,3): expected one of crop_flip, none, standard, trivial"),
        ("experiment=${x}", "experiment=${x}: expected one of cifar10_resnet50, pretrain_glyphs, small_data"),
        ("augment=???", "augment=???: expected one of crop_flip, none, standard, trivial"),
        ("++augment=none", "augment=none: expected no + before it, as the config has this key: augment=none"),
        ("search.space.head.lr=1", "search.space.head.lr=1: expected search=tpe and a range, as 'interval(1e-5,1)'"),
        ("search.name={}", "search.name={}: expected a value of type string"),
        ("lr=[1e-3,1e-4]", "lr=[0.001, 0.0001]: expected a value of type float, or several without brackets"),
        ("data.splits=[a]", "data.splits=[a]: expected keys within it, as in data.splits.<key>=<value>"),
        ("~lr", "lr=(nothing): expected a value; it must not be deleted"),
        ("~augment.color", "augment.color=(nothing): expected a value; it must not be deleted"),
        ("~augment.color=3", "augment.color=(nothing): expected a value; it must not be deleted"),
        ("~data.limit", "data.limit=(nothing): expected a value; it must not be deleted"),
        ("~featurs", "featurs=(nothing): expected a key of the config, see --help; did you mean features?"),
        ("lr=${nope}", "lr=${nope}: expected the name of a key in the braces, and nope is none"),
        (
            "data.root=${oc.env:FROSTLINE_NOPE}",
            "data.root=${oc.env:FROSTLINE_NOPE}: expected an environment variable that is set, and FROSTLINE_NOPE is "
            "not",
        ),
    ],
)
def test_value_that_hydra_refuses_is_one_line_with_its_key(override: str, line: str) -> None:
    for beside in ([], ["model.weights=null"]):
        with pytest.raises(UserError) as caught:
            compose_grid([*beside, override])
        assert str(caught.value) == line


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["++lr=1", "+lr=2"], "lr=2: expected no + before it"),
        (["+lr=1", "++lr=2"], "lr=1: expected no + before it"),
        (["+model=resnet50", "model=resnet18"], "model=resnet50: expected no + before it"),
        (["freeze_mode.phases=[]", "++freeze_mode.phases=3"], "freeze_mode.phases=3: expected a list in brackets"),
        (["++lr=1", "lr=${nope}"], "lr=${nope}: expected the name of a key in the braces"),
    ],
)
def test_key_that_is_typed_twice_is_told_with_the_value_that_hydra_refuses(typed: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_one(typed)
    assert str(caught.value).startswith(line)


def test_unknown_key_is_told_beside_a_reference_for_a_config_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROSTLINE_AUGMENT", "none")
    for mistake, line in (
        ("augmnt.flip=true", r"^augmnt\.flip=true: expected a key of the config"),
        ("data=${nope}", r"^data=\$\{nope\}: expected one of "),
    ):
        with pytest.raises(UserError, match=line):
            compose_grid(["augment=${oc.env:FROSTLINE_AUGMENT}", mistake])


@pytest.mark.parametrize("kind", [ValueError, TypeError, UserError])
def test_error_that_hydra_did_not_raise_is_raised_again(kind: type[Exception]) -> None:
    own = kind("of ours")
    with pytest.raises(kind) as caught:
        try:
            raise own
        except kind as error:
            explain(error, ["lr=1"])
    assert caught.value is own
