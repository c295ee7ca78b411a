"""The store: a content-addressed cache of tensors on disk, and access to its tensors in memory and on devices.

Knows nothing of the meaning of its content; imports only `core`.
Start with `store`, then `rows`, which reads rows of stored tensors.
"""
