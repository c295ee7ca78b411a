"""What a sweep came to, in numbers, words and pictures, and the terminal.

Computes from records, never from a network. Imports `core` and `records`.
Start with `verdict`.
"""
