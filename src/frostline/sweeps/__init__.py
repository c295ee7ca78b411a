"""Many runs: composed, claimed, resumed, carried out, answered and found again.

Where one run, its record and the answer meet.
Start with `sweep`, then `job`.
"""
