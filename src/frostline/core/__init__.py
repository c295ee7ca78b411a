"""The foundation: config schema, user errors, machine and process, atomic writes of small files.

Imports no other package of frostline. Only `labels`, `machine`, `memory` and `randomness` load torch, so that a user
error is reported at once. Start with `config`, whose docstrings explain every key.
"""
