"""Load the data of a run, decoded through the store at the size that its network needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

from frostline.core.config import Config
from frostline.core.errors import user_error
from frostline.core.input_spec import InputSpec
from frostline.data import loading
from frostline.data.augment import Policy, stored_side
from frostline.data.broken_images import BadImages
from frostline.data.pixel_cache import ViewSpec
from frostline.data.resize import CenterCrop
from frostline.data.splits import Data
from frostline.report.terminal import Screen
from frostline.store.store import Store, open_store

_SHOWN = 20  # broken images listed on the screen


def store_of(config: Config, say: Callable[[str], None]) -> Store:
    """Return the store of cached results; `say` shows a line to the user."""
    options = config.store
    return open_store(enabled=options.enabled, path=options.path, budget_gb=options.budget_gb, say=say)


def load_data(config: Config, spec: InputSpec, store: Store, screen: Screen) -> Data:
    """Return the splits of `config.data` for a network with the input `spec`, decoded through the `store`.

    Images that cannot be read are listed on `screen`.
    """
    view_spec = ViewSpec(CenterCrop.of(spec), _side(config, spec))
    try:
        return loading.load(config.data, spec=view_spec, store=store, progress=screen.progress)
    except PermissionError as error:
        raise user_error("data.root", config.data.root, f"a readable folder, and {error.filename} is not") from None
    except BadImages as error:
        _list(error.reasons, screen)
        raise


def _side(config: Config, spec: InputSpec) -> int | None:
    """Return the shorter side of the stored images from which random crops are cut; None without random crops."""
    policy = augment_policy(config)
    if policy.crop == "none":
        return None
    return int(config.data.pixels) if config.data.pixels.isdecimal() else stored_side(policy, CenterCrop.of(spec))


def augment_policy(config: Config) -> Policy:
    """Return the augmentation of training views; images are mirrored only if the data allows it."""
    options = config.augment
    return Policy(
        crop=options.crop,
        scale=(options.scale[0], options.scale[1]),
        ratio=(options.ratio[0], options.ratio[1]),
        padding=options.padding,
        flip=options.flip and config.data.flip,
        color=options.color,
        trivial=options.trivial,
    )


def _list(reasons: Sequence[tuple[str, str]], screen: Screen) -> None:
    """Report broken images: the first ones on the screen, and all in a file if there are more."""
    lines = [f"{name}: {reason}" for name, reason in reasons]
    for line in lines[:_SHOWN]:
        screen.say(f"  {line}")
    if len(lines) > _SHOWN:
        with tempfile.NamedTemporaryFile(prefix="frostline-broken-images-", suffix=".txt", delete=False) as file:
            file.write(("\n".join(lines) + "\n").encode(errors="surrogateescape"))
        screen.say(f"  and {len(lines) - _SHOWN:,} more: all are listed in {file.name}")
