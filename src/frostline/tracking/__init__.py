"""MLflow tracking: mirrors the journals of sweeps and runs to MLflow, and queries MLflow for them.

The only room that knows MLflow, besides `runs.serve`, which MLflow loads. Imports `core` and `records`.
Start with `session`; `mirror` sends the entries of a journal.
"""
