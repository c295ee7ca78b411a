"""A network, its stages, who learns in it, and where it is cut.

Knows no pictures but their size. Imports `core` and `store`.
Start with `build`; `freezing` turns a freeze mode into phases.
"""
