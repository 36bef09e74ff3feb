"""What is known of runs, and where it is kept: with pruners/ the only rooms that know Optuna."""
