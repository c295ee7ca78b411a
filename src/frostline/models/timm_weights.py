"""Where timm's weights are: on the hub, at an address or in a folder; and the input that each set expects."""

from __future__ import annotations

import re
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
"""What the config of a repository says of the picture that its weights expect."""


def input_of(config: PretrainedCfg) -> InputSpec:
    """Return the picture that weights of timm expect, as its `create_transform` shows it outside of training."""
    size = config.input_size[-1]
    mean, std = tuple(config.mean), tuple(config.std)
    interpolation = config.interpolation if config.interpolation in ("bilinear", "bicubic") else "bilinear"
    return InputSpec(size, int(size / config.crop_pct), mean, std, interpolation, config.crop_mode)


def pretrained(name: str) -> Pretrained:
    """Return the weights of a name with a tag, as timm's `PretrainedCfg` tells of them."""
    config = get_pretrained_cfg(name)
    return Pretrained(partial(_fetch, name, config), input_of(config))


def _fetch(name: str, config: PretrainedCfg) -> tuple[Path, str]:
    """Return the file of weights and its sha256, which is the one that the hub tells where it tells one."""
    if not config.hf_hub_id:
        return _fetch_url(name, config.url)
    path = Path(_cached(config.hf_hub_id) or _downloaded(name, config.hf_hub_id))
    digest, blob = hashing.of_source(path), path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and blob.name != digest:  # the hub's cache names files by it
        raise user_error("model.weights", blob, f"a file whose sha256 is its name, not {digest}; delete it")
    return path, digest


def _fetch_url(name: str, url: str) -> tuple[Path, str]:
    if not re.search(r"-[0-9a-f]{8,64}\.pth$", url):
        expected = f"a file that was checked: timm knows no sha256 of {url}; model.weights=<file> takes what you have"
        raise user_error("model.weights", name.partition(".")[2], expected)
    return weights.fetch(url)


def _cached(repository: str) -> str | None:
    """Return the file of a repository's weights in the hub's cache."""
    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in HUB_FILES)
    return next((path for path in found if isinstance(path, str)), None)


def _downloaded(name: str, repository: str) -> str:
    huggingface_hub.logging.set_verbosity_error()  # its own words on every attempt would hide our line
    reason = "the repository has no such file"
    for file in HUB_FILES:
        try:
            return str(huggingface_hub.hf_hub_download(repository, file))
        except RemoteEntryNotFoundError:
            continue
        except Exception as error:  # of the network, of the hub, of the disk
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
        return "the hub asks for its licence to be accepted there, and for the token of who did that in HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or none without a token in HF_TOKEN"
    if isinstance(error, HfHubHTTPError):
        return f"the hub answers {error.response.status_code}"
    return one_line(error.__cause__ or error)


def in_folder(base: str, folder: Path) -> Pretrained:
    """Return the weights in a folder with a repository of timm's hub."""
    file = weights.of_hub(folder)
    assert file is not None
    said = files.read_json(folder / "config.json")
    try:
        theirs, told = said["architecture"], said.get("pretrained_cfg", said)
        spec = input_of(PretrainedCfg(**{key: told[key] for key in _SEEN if key in told}))
    except (TypeError, KeyError, ValueError, AttributeError) as problem:
        raise user_error("model.weights", folder, f"a config.json as timm's hub has it ({problem})") from None
    if theirs != base:
        raise user_error("model.weights", folder, f"weights of {base}, and these are of {theirs}")
    return Pretrained(lambda: (file, hashing.of_source(file)), spec)
