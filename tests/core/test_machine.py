"""The source of a run, its device, and torch's global settings."""

from __future__ import annotations

import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from emulated_card import EmulatedMachine
from frostline.core import machine, project, torch_settings
from frostline.core.errors import UserError
from frostline.records import provenance

CPU = torch.device("cpu")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the package folder of a git checkout with two committed files."""
    package = tmp_path / "src" / "frostline"
    package.mkdir(parents=True)
    (package / "one.py").write_text("a = 1\n\n")
    (package / "two.py").write_text("b = 2\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    monkeypatch.setattr(project, "PACKAGE", package)
    return package


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list whose element is the number of GPUs that torch reports."""
    count = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count[0] > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count[0])
    return count


def test_checkout_is_the_project_root() -> None:
    root = project.project_root()
    assert (root / "train.py").is_file()
    assert project.config_folder() == root / "conf"
    assert (project.config_folder() / "config.yaml").is_file()


def test_installed_package_uses_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "frostline"
    (package / "conf").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(project, "PACKAGE", package)
    monkeypatch.chdir(tmp_path / "work")
    assert project.config_folder() == package / "conf"
    assert project.project_root() == tmp_path / "work"
    assert project.source().commit is None
    assert project.source().patch == ""


def test_source_hash_depends_on_content_and_names(checkout: Path) -> None:
    first = _source()
    assert first == _source() == project.source().sha256
    (checkout / "one.py").write_text("a = 2\n\n")
    changed = _source()
    (checkout / "one.py").rename(checkout / "six.py")
    assert len({first, changed, _source()}) == 3


def test_source_has_commit_and_patch(checkout: Path) -> None:
    clean = project.source()
    assert clean.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert clean.patch == ""
    (checkout / "two.py").write_text("b = 3\n")
    dirty = project.source()
    assert dirty.commit == clean.commit
    assert "-b = 2" in dirty.patch
    assert "+b = 3" in dirty.patch


def test_recorded_patch_can_be_applied(checkout: Path) -> None:
    """Here the patch ends with an empty context line, which is a space."""
    (checkout / "one.py").write_text("a = 5\n\n")
    wanted = (checkout / "one.py").read_text()
    patch = project.source().patch
    git(checkout, "checkout", "-q", "--", ".")
    (checkout / "source.patch").write_text(patch + "\n")
    git(checkout.parents[1], "apply", str(checkout / "source.patch"))
    assert (checkout / "one.py").read_text() == wanted


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert project.source().commit is None
    assert project.source().patch == ""


def test_auto_uses_a_gpu_if_available(gpus: list[int]) -> None:
    assert machine.device("auto") == CPU
    gpus[0] = 2
    assert machine.device("auto") == torch.device("cuda")
    assert machine.device("cuda:1") == torch.device("cuda:1")
    assert machine.device("cpu") == CPU


@pytest.mark.parametrize(
    ("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("gpu", 1), ("GPU", 0), ("tpu", 0), ("mps", 0)]
)
def test_missing_device_is_one_line_with_the_available_ones(gpus: list[int], name: str, count: int) -> None:
    gpus[0] = count
    with pytest.raises(UserError, match=rf"^device={name}: expected .*\(auto, cpu") as caught:
        machine.device(name)
    assert "\n" not in str(caught.value)
    assert ("cuda:0" in str(caught.value).split(": expected")[1]) == (count > 0)
    hint = str(caught.value).partition("); ")[2]
    named = {
        "gpu": "did you mean cuda?",
        "GPU": "a GPU would be called cuda, and there is none",
        "mps": "GPUs of Apple and Intel are not used",
    }
    assert hint == named.get(name, hint)


def test_old_driver_is_one_line_without_torchs_warning(gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def available() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(machine.driver, "too_old", lambda: "the driver knows CUDA up to 12.4")
    assert machine.device("auto") == CPU
    with pytest.raises(UserError, match=r"^device=cuda: expected cpu, or a newer driver: the driver knows CUDA up to"):
        machine.device("cuda")
    monkeypatch.setattr(machine.driver, "too_old", lambda: None)
    with pytest.warns(UserWarning, match="CUDA initialization"):
        machine.device("auto")


def test_too_many_devices_is_one_line_with_their_number(gpus: list[int]) -> None:
    assert machine.device("cpu", devices=8) == CPU
    with pytest.raises(UserError, match=r"^devices=2: expected 1, as there is no GPU; with device=cpu it trains in as"):
        machine.device("auto", devices=2)
    gpus[0] = 2
    assert machine.device("cuda", devices=2) == torch.device("cuda")
    with pytest.raises(UserError, match=r"^devices=3: expected at most 2, the GPUs that a run may use; "):
        machine.device("cuda", devices=3)


def test_processes_of_a_run_share_default_threads() -> None:
    machine.prepare_torch(deterministic=False, threads=None)
    own = torch.get_num_threads()
    machine.prepare_torch(deterministic=False, threads=None, processes=2)
    assert torch.get_num_threads() == max(1, own // 2)
    machine.prepare_torch(deterministic=False, threads=own + 1, processes=2)
    assert torch.get_num_threads() == own + 1
    machine.prepare_torch(deterministic=False, threads=None)


def test_threads_null_restores_torchs_default() -> None:
    machine.prepare_torch(deterministic=False, threads=None)
    own = torch.get_num_threads()
    machine.prepare_torch(deterministic=False, threads=own + 1)
    assert torch.get_num_threads() == own + 1
    machine.prepare_torch(deterministic=False, threads=None)
    assert torch.get_num_threads() == own


def test_torch_settings_are_restored_by_the_last_user(two_threads: None) -> None:
    machine.prepare_torch(deterministic=False, threads=2)
    torch.backends.cudnn.allow_tf32 = True
    first, second = torch_settings.isolated(), torch_settings.isolated()
    with first:
        machine.prepare_torch(deterministic=True, threads=1)
        second.__enter__()
    assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1  # for the second user
    second.__exit__(None, None, None)
    assert not torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 2
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32 = False


def test_isolated_state_ignores_settings_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            with torch_settings.isolated():
                machine.prepare_torch(deterministic=True, threads=1)
                one = torch.ones(1, requires_grad=True)
                assert (one.dtype, one.device, (2 * one).requires_grad) == (torch.float32, CPU, True)
            assert torch.is_inference_mode_enabled() and torch.ones(1).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64 and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    finally:
        torch.set_default_dtype(torch.float32)


def _precision_of_float32() -> list[object]:
    """Return torch's float32 precision by all of its attributes."""
    backends: Any = torch.backends
    asked: list[Callable[[], object]] = [
        torch.get_float32_matmul_precision,
        lambda: backends.cudnn.allow_tf32,
        lambda: backends.mkldnn.matmul.fp32_precision,
        lambda: backends.mkldnn.conv.fp32_precision,
        lambda: backends.cuda.matmul.fp32_precision,
        lambda: backends.fp32_precision,
    ]
    said: list[object] = []
    for one in asked:
        try:
            said.append(one())
        except RuntimeError as refusal:  # an old attribute that cannot express the new setting
            said.append(type(refusal))
    return said


@pytest.mark.parametrize(
    "choose",
    [
        lambda backends: torch.set_float32_matmul_precision("medium"),
        lambda backends: setattr(backends.mkldnn.matmul, "fp32_precision", "bf16"),
        lambda backends: setattr(backends.mkldnn, "fp32_precision", "bf16"),
        lambda backends: setattr(backends, "fp32_precision", "tf32"),
    ],
)
def test_reduced_float32_precision_is_suspended_and_restored(choose: Any) -> None:
    with torch_settings.isolated():  # restore for later tests
        torch.backends.cudnn.allow_tf32 = True  # as in a fresh process
        before = _precision_of_float32()
        choose(torch.backends)
        chosen = _precision_of_float32()
        assert chosen != before
        with torch_settings._precision_as_it_was():
            assert _precision_of_float32() == ["highest", False, "ieee", "none", "ieee", "none"]
        assert _precision_of_float32() == chosen
    assert torch.get_float32_matmul_precision() == "highest"


def test_isolated_state_suspends_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with torch_settings.isolated():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(("threads", "name"), [(1, "cpu (1 thread)"), (4, "cpu (4 threads)")])
def test_cpu_name_has_its_threads(threads: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert machine.device_name(CPU) == name


def test_default_precision_on_a_cpu_is_float32() -> None:
    found = [machine.autocast_dtype(precision, CPU) for precision in ("auto", "fp32", "bf16")]
    assert found == [None, None, torch.bfloat16]


def test_default_precision_on_a_gpu_depends_on_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((7, 5), (8, 0))[device.index])
    found = [machine.autocast_dtype("auto", torch.device("cuda", number)) for number in (0, 1)]
    assert found == [None, torch.bfloat16]


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_switched_on_and_off(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        machine.prepare_torch(deterministic=deterministic, threads=None)
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert torch.backends.cudnn.deterministic is deterministic
        assert torch.backends.cudnn.benchmark is not deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        machine.prepare_torch(deterministic=before, threads=None)


def test_product_does_not_depend_on_the_place_in_the_batch() -> None:
    random = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(32, 6, 5, 64, generator=random), torch.randn(32, 6, 64, 5, generator=random)
    order = torch.randperm(32, generator=random)
    assert torch.equal((queries @ keys)[order], queries[order] @ keys[order])


def test_source_hash_includes_subfolders(checkout: Path) -> None:
    (checkout / "inner").mkdir()
    found = {_source()}
    for path, text in (("inner/one.py", "a = 1\n"), ("inner/one.py", "a = 2\n"), ("other/one.py", "a = 2\n")):
        (checkout / path).parent.mkdir(exist_ok=True)
        (checkout / path).write_text(text)
        found.add(_source())
    (checkout / "inner" / "one.py").rename(checkout / "inner" / "two.py")
    found.add(_source())
    assert len(found) == 5


def _source() -> str:
    project._sha256_of.cache_clear()  # as in a new process
    return project.source_sha256()


def test_tf32_is_disabled() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    machine.prepare_torch(deterministic=False, threads=1)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    found = provenance.settings(None)["settings"]
    assert "tf32" not in (found["fp32_matmul"], found["fp32_convolution"])


def test_platform_has_gpu_library_and_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """These decide kernels and thus last bits, so they are part of the key of features."""
    found = set()
    for name, version, tf32 in (("A", 1, False), ("B", 1, False), ("A", 2, False), ("A", 1, True)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda version=version: version)
        torch.backends.cudnn.allow_tf32 = tf32
        found.add(machine.platform(torch.device("cuda")))
    torch.backends.cudnn.allow_tf32 = False
    assert len(found) == 4


@pytest.mark.parametrize(
    ("capability", "kernels", "runs"),
    [((7, 0), ["sm_75", "sm_86"], True), ((7, 0), ["sm_80", "sm_90a"], False), ((12, 1), ["sm_100", "sm_120"], True)],
)
def test_gpu_without_kernels_is_one_line(
    capability: tuple[int, int], kernels: list[str], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kernels)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    expected = r"^device=cuda:1: expected cpu, or a GPU .* \(sm_80, sm_90a\), not Tesla V100 \(sm_70\)$"
    with nullcontext() if runs else pytest.raises(UserError, match=expected):
        machine.require_kernels(torch.device("cuda:1"))
    machine.require_kernels(CPU)


def test_tests_see_no_gpu() -> None:
    assert not torch.cuda.is_available()


def test_results_are_read_while_the_next_is_computed() -> None:
    computed: list[int] = []

    def compute() -> Iterator[torch.Tensor]:
        for number in range(3):
            computed.append(number)
            yield torch.full((2,), float(number), device="cuda")

    with EmulatedMachine().running():
        read = [(tensor.tolist(), len(computed)) for tensor in machine.to_host(compute())]
    assert read == [([0, 0], 2), ([1, 1], 3), ([2, 2], 3)]


def test_slurm_job_takes_no_more_cores_than_it_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    default = machine._default_threads.__wrapped__
    assert (machine.cores(), default()) == (64, 64)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert (machine.cores(), default()) == (4, 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert default() == torch.get_num_threads()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "100")
    assert machine.cores() == 64
