"""Executors: they train runs, in this process or in worker processes."""
