"""The mirror of the records in MLflow.

The only room that knows MLflow, but for `runs.serve`, which MLflow loads. Imports `core` and `records`.
Start with `session`; `mirror` sends what a journal says.
"""
