"""A training function of the user's own as an objective."""
