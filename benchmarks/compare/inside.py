"""One side of a comparison, run by that side's own checkout: its stores, its data, its model, its service.

What belongs here: as little as can be, since it has to run with the code of older checkouts: their
`benchmarks.serving.bench.Bench` does the work. What does not: load, measuring. It says in one line of JSON that the
service answers, and ends everything when its standard input ends.
"""

import argparse
import hashlib
import json
import signal
import sys
from pathlib import Path

from benchmarks.serving.bench import Bench, free_port
from benchmarks.serving.candidates import OURS
from benchmarks.serving.world import World


def main() -> None:
    """Start, say so, wait, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--merchants", type=int, required=True)
    parser.add_argument("--server-cores", type=int, nargs="+", required=True)
    parser.add_argument("--load-cores", type=int, nargs="+", required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("was told to stop"))
    world = World(options.folder / "home", free_port(), options.users, options.merchants)
    with Bench(world, options.folder, set(options.server_cores), set(options.load_cores)) as bench:
        service = bench.start(OURS)
        model = hashlib.sha256(world.model_file.read_bytes()).hexdigest()
        said = {"port": service.port, "key": service.key, "pid": service.process.pid, "model": model}
        print(json.dumps(said), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
