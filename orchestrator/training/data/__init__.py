"""Data on their way into training: found, split, checked."""
