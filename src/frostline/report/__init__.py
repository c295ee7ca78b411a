"""Results of a sweep: statistics, the verdict, the report page, plots, and everything shown on the terminal.

Computes from records, never from a network. Imports `core` and `records`.
Start with `verdict`.
"""
