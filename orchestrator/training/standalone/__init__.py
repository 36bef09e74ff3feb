"""`lr_range_test` and `ScheduleLR`, for the user's own training loop."""
