"""Data: loaded from their source, checked, and split."""
