"""Look up a network and its weights by name: the architecture, the weights file, and the expected input."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from frostline.core import plugins
from frostline.core.errors import user_error
from frostline.core.files import absolute, expanded
from frostline.core.input_spec import InputSpec
from frostline.models import torchvision_models
from frostline.models.architecture import Architecture, Pretrained
from frostline.models.weights import GLYPHS, GLYPHS_SHA256, SUFFIXES, is_file_name, metadata_of, of_hub
from frostline.store import hashing


def input_of(name: str, *, library: str = "torchvision", weights: str | None, image_size: int | None) -> InputSpec:
    """Return the input of the network that `build.build` returns for the same arguments; raises the same errors."""
    found = architecture_of(name, library)
    return input_spec(name, library, found, source_of(found, weights), image_size)


def architecture_of(name: str, library: str) -> Architecture:
    """Return the architecture called `name`, from timm, torchvision or a plugin; UserError if there is none."""
    if library == "timm":
        try:
            from frostline.models import timm_models
        except ImportError as error:
            way = f"torchvision, or the package timm, which `pip install 'frostline[timm]'` installs ({error})"
            raise user_error("model.library", "timm", way) from None
        return timm_models.architecture(name)
    if name in torchvision_models.NAMES:
        return torchvision_models.architecture(name)
    plugin: Architecture | None = plugins.load(plugins.MODELS, name)
    if plugin is None:
        theirs = torchvision_models.NAMES
        expected = f"one of torchvision's {len(theirs)} classification models, a plugin, or with model=timm one of timm"
        raise user_error("model.name", name, expected, (*theirs, *plugins.names(plugins.MODELS)))
    if not isinstance(plugin, Architecture):
        raise user_error("model.name", name, f"a plugin that is an Architecture, not of type {type(plugin).__name__}")
    return plugin


def source_of(found: Architecture, weights: str | None) -> Pretrained | Path | None:
    """Return the library's weights or the existing file that `weights` names; UserError if there are none."""
    if weights is None:
        return None
    entries = dict(zip(("default",), found.weights.values(), strict=False)) | dict(found.weights)
    if weights.lower() in entries:
        return entries[weights.lower()]
    path = GLYPHS if weights == "glyphs" else expanded(weights)
    if found.folder is not None and of_hub(path):
        return found.folder(path)
    if not is_file_name(path.name):
        expected = f"null, glyphs, a {', '.join(SUFFIXES)} file or one of {', '.join(entries)}"
        raise user_error("model.weights", weights, expected, [*entries, "glyphs"])
    if not os.path.isfile(path):
        raise user_error("model.weights", weights, f"a file, and there is none at {absolute(weights)}")
    return path


def input_spec(
    name: str, library: str, found: Architecture, source: Pretrained | Path | None, image_size: int | None
) -> InputSpec:
    """Return the input that the weights expect or, if they do not say it, the architecture's default."""
    saved = metadata_of(source) if isinstance(source, Path) else {}
    if saved and (saved["model"], saved.get("library", "torchvision")) != (name, library):
        theirs = f"{saved['model']} of {saved.get('library', 'torchvision')}"
        expected = f"weights of {name} of {library}, not of {theirs}"
        if source == GLYPHS and name in torchvision_models.NAMES:  # the option of `model` stayed the default
            expected += f"; model={name} names the model and its own weights"
        given = "glyphs" if source == GLYPHS else source
        raise user_error("model.weights", given, expected)
    said = source.input if isinstance(source, Pretrained) else found.input
    spec = InputSpec.of(saved) if saved else said
    if image_size is None:
        return spec
    if image_size < found.smallest:
        raise user_error("model.image_size", image_size, f"at least {found.smallest} pixels for {name}")
    return replace(spec, size=image_size, resize=round(spec.resize * image_size / spec.size))


def weights_file(name: str, *, library: str, weights: str | None, sha256: str | None = None) -> tuple[Path, str] | None:
    """Return the file that `build.build` would read, downloaded if missing, and its sha256; None from scratch.

    UserError if its sha256 is not the expected `sha256`.
    """
    source = source_of(architecture_of(name, library), weights)
    return None if source is None else file_of(source, sha256)


def file_of(source: Pretrained | Path, sha256: str | None) -> tuple[Path, str]:
    """Return the file of a source, downloaded if missing, and its sha256; UserError if that is not `sha256`."""
    path, digest = source.fetch() if isinstance(source, Pretrained) else (source, hashing.of_source(source))
    if sha256 is None and source == GLYPHS:
        sha256 = GLYPHS_SHA256
    if sha256 is not None and sha256.lower() != digest:
        raise user_error("model.sha256", sha256, f"the sha256 of {path}, which is {digest}")
    return path, digest
