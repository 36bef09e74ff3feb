"""Runs one study: the loop over its stages, its folder, and the files in it."""
