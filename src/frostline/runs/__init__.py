"""One run, from its config to its metrics, and its network afterwards.

Needs no MLflow: whoever carries it out hands in what is to be fetched from there.
Start with `run`, then `frost_line`.
"""
