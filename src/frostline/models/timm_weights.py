"""Locate timm's weights (on the hub, at a URL, in a folder) and the input that each set expects."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError
from timm.models import PretrainedCfg, get_pretrained_cfg

from frostline.core import files
from frostline.core.errors import one_line, user_error
from frostline.core.input_spec import InputSpec
from frostline.models import weights
from frostline.models.architecture import Pretrained
from frostline.models.weights import HUB_FILES
from frostline.store import hashing

_SEEN = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
"""Keys of a repository's config that describe the expected input."""


def input_of(config: PretrainedCfg) -> InputSpec:
    """Return the input that timm's weights expect, the same as timm's `create_transform` for evaluation."""
    size = config.input_size[-1]
    mean, std = tuple(config.mean), tuple(config.std)
    interpolation = config.interpolation if config.interpolation in ("bilinear", "bicubic") else "bilinear"
    return InputSpec(size, int(size / config.crop_pct), mean, std, interpolation, config.crop_mode)


def pretrained(name: str) -> Pretrained:
    """Return the weights of a tagged name, as timm's `PretrainedCfg` describes them."""
    config = get_pretrained_cfg(name)
    return Pretrained(partial(_fetch, name, config), input_of(config))


def _fetch(name: str, config: PretrainedCfg) -> tuple[Path, str]:
    """Return the weights file and its sha256, checked against the hub's sha256 if the hub has one."""
    if not config.hf_hub_id:
        return _fetch_url(name, config.url)
    path = Path(_cached(config.hf_hub_id) or _downloaded(name, config.hf_hub_id))
    digest, blob = hashing.of_source(path), path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and blob.name != digest:  # file names in the hub's cache are sha256
        raise user_error("model.weights", blob, f"a file whose sha256 is its name, not {digest}; delete it")
    return path, digest


def _fetch_url(name: str, url: str) -> tuple[Path, str]:
    if not re.search(r"-[0-9a-f]{8,64}\.pth$", url):
        expected = f"weights with a known sha256: timm has none for {url}; download them and set model.weights=<file>"
        raise user_error("model.weights", name.partition(".")[2], expected)
    return weights.fetch(url)


def _cached(repository: str) -> str | None:
    """Return the weights file of a repository from the hub's cache; None if it is not there."""
    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in HUB_FILES)
    return next((path for path in found if isinstance(path, str)), None)


def _downloaded(name: str, repository: str) -> str:
    huggingface_hub.logging.set_verbosity_error()  # its messages on every attempt would hide our error line
    reason = "the repository has no such file"
    for file in HUB_FILES:
        try:
            return str(huggingface_hub.hf_hub_download(repository, file))
        except RemoteEntryNotFoundError:
            continue
        except Exception as error:  # network, hub or disk
            reason = _reason(error)
            break
    expected = (
        f"a download that works ({reason}), or model.weights=<folder> with config.json and {HUB_FILES[0]} of the"
        f" repository {repository}"
    )
    raise user_error("model.weights", name.partition(".")[2], expected)


def _reason(error: Exception) -> str:
    """Return why a download failed, in a few words."""
    if isinstance(error, GatedRepoError):
        return "the hub requires you to accept its licence there, and HF_TOKEN to hold a token of that account"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or it needs a token in HF_TOKEN"
    if isinstance(error, HfHubHTTPError):
        return f"the hub answers {error.response.status_code}"
    return one_line(error.__cause__ or error)


def in_folder(base: str, folder: Path) -> Pretrained:
    """Return the weights in a folder that holds a repository of timm's hub."""
    file = weights.of_hub(folder)
    assert file is not None
    said = files.read_json(folder / "config.json")
    try:
        theirs, told = said["architecture"], said.get("pretrained_cfg", said)
        spec = input_of(PretrainedCfg(**{key: told[key] for key in _SEEN if key in told}))
        if not weights.is_input(asdict(spec)):
            raise ValueError(f"no input of three channels: {spec}")
    except (TypeError, LookupError, ValueError, AttributeError, ArithmeticError) as problem:
        raise user_error("model.weights", folder, f"a config.json in the format of timm's hub ({problem})") from None
    if theirs != base:
        raise user_error("model.weights", folder, f"weights of {base}, not of {theirs}")
    return Pretrained(lambda: (file, hashing.of_source(file)), spec)
