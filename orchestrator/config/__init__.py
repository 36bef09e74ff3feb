"""The request: what can be set, what it may be, and what is wrong with it."""
