"""One of several processes: the command line, batch by batch.

Usage: counting.py DEADLY ARGUMENTS of neuropatch. States are saved after every batch. Rank 1 is
killed in its batch of number DEADLY; who lives says how many batches it has run.
"""

import os
import signal
import sys

from neuropatch.attribution import run
from neuropatch.cli.app import main

if __name__ == "__main__":
    run.SAVE_EVERY_SECONDS = 0.0
    original, calls = run.packed_losses, []

    def losses(*args):
        calls.append(1)
        if len(calls) == int(sys.argv[1]) and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    run.packed_losses = losses
    try:
        main(sys.argv[2:])
    finally:
        print(len(calls), "batches", file=sys.stderr)
