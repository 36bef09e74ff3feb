"""The configuration: settings, their limits and defaults, and messages about wrong ones."""
