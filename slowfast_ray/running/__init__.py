"""First floor: experiments become runs, searches and MLflow entries. Imports what is below, never the reverse.

In the hall, here: the command line and what it refuses, the terminal, scores, and the ways in for others (predicting.py
and prediction_rows.py, which registered models import). The rooms, by what they are about:

    training      one training, and what carries it over processes and machines
    searching     spaces, rules, suggestions, trials, finalists; tuner.py is where a search begins
    nodes         the machines of a cluster, and how trials share them
    folders       what a run keeps, on disk or at a URL
    tracking      MLflow
    audits        what a dataset's audit says, and the pictures' common words
    charts        the pictures of a search
    evaluations   checkpoints scored again, and compared
    publishing    model folders, cards, the registry, programs for other machines
    predictions   recordings that a network has not seen; serving
"""

import os

# OpenMP's threads wait for one another by spinning; when another program took one of two cores, that made training 30
# times slower. A spin as short as this costs nothing when alone. Torch reads it when it is loaded, and the processes
# that Ray starts inherit it, so it stands before everything else.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
