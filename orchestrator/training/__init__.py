"""The torch room: data, networks, the loop, checkpoints, memory and clock.

Importing it comes before the first import of torch, for the sake of the line below.
"""

import os

# OpenMP's threads otherwise burn a processor while they wait for each other: beside any other busy
# process, training with two threads on two cores then ran 10 to 20 times slower, with this 1.5.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
