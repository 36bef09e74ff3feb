"""The machine: signals, files, processors and GPUs."""
