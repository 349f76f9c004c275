"""First floor: experiments become runs, searches and MLflow entries. Imports what is below, never the reverse."""

import os

# OpenMP's threads wait for one another by spinning; when another program took one of two cores, that made training 30
# times slower. A spin as short as this costs nothing when alone. Torch reads it when it is loaded, and the processes
# that Ray starts inherit it, so it stands before everything else.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
