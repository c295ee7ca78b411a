"""What runs and sweeps leave in their folders, written and read as data.

A record runs no code and needs no MLflow. Imports `core` alone.
Start with `journal`.
"""
