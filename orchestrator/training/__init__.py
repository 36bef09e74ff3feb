"""Training with PyTorch: data, networks, the loop, checkpoints, memory and calibration.

This module is imported before torch, because the setting below must come first.
"""

import os

# How long GNU's OpenMP threads spin before they sleep. With the default, three processes of two
# threads each on two cores trained .12 thousand images a second; with this limit 2.6 thousand. A
# process alone on the machine loses about 5 %.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
