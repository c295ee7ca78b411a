"""Tensors on disk and in memory, computed once by whoever asks first and found by their hash.

Knows nothing of what is stored in it; imports `core` alone.
Start with `store`; `rows` is where the tensors lie while they are used.
"""
