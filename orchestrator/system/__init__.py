"""The operating system: signals, files, processors, memory and GPUs."""
