"""Pictures become pixels, splits and views.

Knows no network: what one expects of a picture is handed in. Imports `core` and `store`.
Start with `loading`, which goes from a source of pictures to decoded splits.
"""
