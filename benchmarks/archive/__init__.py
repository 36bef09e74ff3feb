"""The parts of benchmarks/archived.py, and two scripts of their own."""
