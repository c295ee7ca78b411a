"""Many runs: composed, claimed, resumed, carried out, answered and found again.

The only place where everything meets.
Start with `sweep`, then `job`.
"""
