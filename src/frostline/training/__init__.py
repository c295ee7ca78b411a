"""Steps, epochs, scores, and the state from which a run goes on.

Knows no logger and no whole config: functions take plain arguments. Imports `core`, `store`, `data` and `models`.
Start with `loop`.
"""
