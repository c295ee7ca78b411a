"""List, verify or clear the store of decoded pixels and computed features."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from frostline.commands import Parser, tell
from frostline.core import project
from frostline.core.errors import first_few, user_error
from frostline.data.names import counted
from frostline.records.result import size

if TYPE_CHECKING:
    from frostline.store.store import Store

_ENTRIES = ("entry", "entries")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def main(arguments: list[str]) -> int:
    """Run `store [list|verify|clear]`; return 1 if `verify` found damage or `clear` could not remove an entry."""
    parser = Parser("store", __doc__)
    parser.add_argument("--path", help="folder of the store (default: as in the config, or FROSTLINE_STORE)")
    actions = parser.add_subparsers(dest="action", metavar="{list,verify,clear}")
    actions.add_parser("list", help="show entries with their size, content and last use (the default)")
    actions.add_parser("verify", help="read every entry and compare its checksums")
    clear = actions.add_parser("clear", help="remove all entries, or those of a kind or age")
    clear.add_argument("--kind", choices=("pixels", "features", "shards", "twins"), help="only entries of this kind")
    clear.add_argument("--older-than", metavar="AGE", help="only entries unused for so long, e.g. 30d, 12h")
    options = parser.parse_args(arguments)
    age = _seconds(options.older_than) if options.action == "clear" and options.older_than else 0.0
    store = _open(options.path)
    if options.action == "verify":
        return _verify(store)
    if options.action == "clear":
        return _clear(store, options.kind, age)
    return _list(store)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if found is None:
        raise user_error("--older-than", text, "a number and one of s, m, h, d, w, e.g. 30d")
    return float(found[1]) * _UNITS[found[2]]


def _open(path: str | None) -> Store:
    """Open the store that runs use, with the folder and budget in config.yaml unless `path` is given."""
    if path is not None and os.path.lexists(path) and not os.path.isdir(path):
        raise user_error("--path", path, "a folder")
    config = OmegaConf.load(project.config_folder() / "config.yaml").store
    from frostline.store.store import open_store  # imports torch

    return open_store(enabled=True, path=path or config.path, budget_gb=config.budget_gb, say=print)


def _list(store: Store) -> int:
    from frostline.report.tables import store_table
    from frostline.report.terminal import Screen

    items = store.items()
    screen = Screen()
    if items:
        screen.show(store_table(items[::-1]))
    total, count = sum(item.size for item in items), counted(len(items), *_ENTRIES)
    screen.say(f"{count} in {store.folder}: {size(total)} of {size(store.budget)} (store.budget_gb)")
    return 0


def _verify(store: Store) -> int:
    from frostline.store import checksums, entries

    items, damaged = store.items(), 0
    for item in items:
        try:
            entries.find(item.place, trusted=False)
        except checksums.DamagedEntry as damage:
            damaged += 1
            print(f"damaged: {item.kind} {item.about or item.place.name}: {damage}; it is computed again when needed")
    print(f"{counted(len(items), *_ENTRIES)} checked, {damaged} damaged")
    return 1 if damaged else 0


def _clear(store: Store, kind: str | None, age: float) -> int:
    from frostline.store import removal

    assert store.folder is not None
    refused: list[str] = []
    freed, removed, in_use = removal.tidy(store.folder, refused=refused), 0, 0
    for item in store.items():
        if kind in (None, item.kind) and time.time() - item.used >= age:
            try:
                done = removal.remove(item)
            except OSError as error:
                refused.append(f"{item.kind} {item.about or item.place.name}: {error.strerror}")
                continue
            removed, in_use, freed = removed + done, in_use + (not done), freed + done * item.size
    stay = f"; {in_use} in use {'stays' if in_use == 1 else 'stay'}" if in_use else ""
    print(f"{counted(removed, *_ENTRIES)} removed, {size(freed)} freed in {store.folder}{stay}")
    if refused:
        those = first_few(refused, "; ")
        tell(f"{counted(len(refused), *_ENTRIES)} could not be removed: {those}")
    return 1 if refused else 0
