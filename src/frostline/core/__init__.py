"""What everything stands on: the schema of a run, a person's mistakes, this machine and process, small safe files.

Imports nothing of ours, and torch inside functions only (but for `randomness`), so that a mistake is answered at once.
Start with `config`, whose comments explain every key.
"""
