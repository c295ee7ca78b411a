"""Data: from image files to decoded pixels, splits and augmented views.

Knows no network: the network's input spec is passed in. Imports `core` and `store`.
Start with `loading`, which turns a data source into decoded splits.
"""
