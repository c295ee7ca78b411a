"""Networks: building them, their weights and stages, freezing, adapters, and the cut at the frost line.

Knows only the size of images. Imports `core` and `store`.
Start with `build`; `freezing` turns a freeze mode into phases.
"""
