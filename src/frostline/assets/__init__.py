"""The embedded weights, and how they are made."""
