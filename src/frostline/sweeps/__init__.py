"""Sweeps of many runs: compose, check, claim, resume, run, compare, and find them again by name.

This package joins runs, records and reports.
Start with `sweep`, then `job`.
"""
