"""Find the hyper-parameters of a neural network in a few short runs.

The staged method of L. N. Smith, "A disciplined approach to neural network hyper-parameters"
(arXiv 1803.09820), as an Optuna study that a Hydra config describes and MLflow records.
"""
