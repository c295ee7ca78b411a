"""Records of runs and sweeps: the files in their folders, written and read as plain data.

Reading a record runs no code and needs no MLflow. Imports `core` alone.
Start with `journal`.
"""
