"""The parts of the rightness benchmark; each has `run(options) -> dict` and `table(result)`."""
