"""A private Redis with the same contents, on a socket of its own. Its client redis-benchmark is in C like pgbench, and has as
many connections, with one request at a time on each. Redis keeps nothing on disk, as it does when it runs as a cache."""

import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from .measure import progress

PROGRAMS = ("redis-server", "redis-benchmark", "redis-cli")


def is_installed():
    return all(shutil.which(program) for program in PROGRAMS)


@contextmanager
def start(contents):
    """A server with these contents under key:000000000000, key:000000000001 …; stopped and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="ipc-bench-redis-"))
    process = None
    try:
        command = ["redis-server", "--port", "0", "--unixsocket", directory / "socket", "--dir", directory,
                   "--save", "", "--appendonly", "no"]
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
        server = Redis(directory / "socket")
        deadline = time.monotonic() + 20
        while server.cli("PING", check=False) != "PONG":
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.05)
        server.load(contents)
        yield server
    finally:
        if process is not None:
            process.terminate()
            process.wait()
        shutil.rmtree(directory)


class Redis:
    def __init__(self, socket):
        self.socket = socket
        self.keys = 0
        self.rates = {}

    def cli(self, *command, check=True):
        return subprocess.run(["redis-cli", "-s", self.socket, *command], capture_output=True, text=True, check=check).stdout.strip()

    def load(self, contents):
        progress("redis: loading …")
        pipe = subprocess.Popen(["redis-cli", "-s", self.socket, "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        with pipe.stdin:
            for content in contents:
                content = content.encode()
                pipe.stdin.write(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%s\r\n" % (self.keys, len(content), content))
                self.keys += 1
        if pipe.wait() != 0 or self.cli("DBSIZE") != str(self.keys):
            raise RuntimeError("Redis has not taken all entries")

    def content(self, number):
        return self.cli("GET", f"key:{number:012d}")

    def benchmark(self, *command, seconds=2, clients=8, each=1, text=None):
        """Runs a command, in which each __rand_int__ is one of the keys. Returns operations per second."""
        # redis-benchmark takes a number of requests, not a time.
        kind = (command, clients, text)
        if kind not in self.rates:
            self.rates[kind] = self.run(20_000 // each, clients, command, text)
        requests = max(100, round(self.rates[kind] * seconds))
        before = self.found()
        rate = self.run(requests, clients, command, text)
        found = self.found() - before
        if command[0] != "SET" and found != requests * each:
            raise RuntimeError(f"{requests * each - found} keys were not found")
        return {"per_second": rate * each, "us": 1e6 * clients / rate / each}

    def run(self, requests, clients, command, text):
        done = subprocess.run(["redis-benchmark", "-s", self.socket, "-c", str(clients), "-n", str(requests), "-r", str(self.keys),
                               "--csv", *(["-x"] if text else []), *command],
                              input=text, capture_output=True, text=True, check=True)
        # The line quotes the command, commas and all, so figures are counted from the end.
        return float(done.stdout.strip().splitlines()[-1].rsplit(",", 7)[1].strip('"'))

    def found(self):
        """Returns the hits so far. A miss raises, because redis-benchmark would not notice it."""
        statistics = dict(line.split(":") for line in self.cli("INFO", "stats").splitlines() if ":" in line)
        if int(statistics["keyspace_misses"]):
            raise RuntimeError(f"Redis has missed {statistics['keyspace_misses']} keys")
        return int(statistics["keyspace_hits"])
