"""Training: steps, epochs, scores, and the state from which a run resumes.

No logger and no whole config here: functions take plain arguments. Imports `core`, `store`, `data` and `models`.
Start with `loop`.
"""
