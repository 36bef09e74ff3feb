"""The torch room: data, networks, the loop, checkpoints, memory and clock.

Importing it comes before the first import of torch, for the sake of the line below.
"""

import os

# How often OpenMP's threads (GNU's) look for work before they sleep. By default so often that three
# processes of two threads each, on two cores, trained at .12 thousand images a second; with this
# limit at 2.6 thousand. A process that has the machine to itself loses about 5 %.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
