"""Trials and their results in Optuna, and the names of a study's files."""
