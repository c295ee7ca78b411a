"""One run: from its config to its metrics, and prediction, export and serving of its network.

Needs no MLflow: the caller passes a function that fetches weights from there.
Start with `run`, then `frost_line`.
"""
