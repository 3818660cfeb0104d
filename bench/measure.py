"""Figures with their noise, and tables of them."""

import statistics
import sys
import threading
import time
from pathlib import Path


def progress(message):
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


class Figure:
    """The median of several runs, and half the width of their middle half."""

    def __init__(self, values):
        self.values = list(values)
        self.median = statistics.median(self.values)
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive") if len(self.values) > 1 else [0] * 3
        self.noise = (high - low) / 2

    def __sub__(self, baseline):
        return Figure(mine - theirs for mine, theirs in zip(self.values, baseline.values, strict=True))

    def __truediv__(self, baseline):
        return Figure(mine / theirs for mine, theirs in zip(self.values, baseline.values, strict=True))

    def __format__(self, form):
        return f"{self.median:{form}} ± {self.noise:{form}}" if len(self.values) > 1 else f"{self.median:{form}}"


def alternating(rounds, **actions):
    """Runs actions in turns, in changing order, after a first turn that does not count. An action returns a
    dictionary of numbers. Returns for each action a Figure of each number."""
    results = {name: [] for name in actions}
    for turn in range(rounds + 1):
        for number in range(len(actions)):
            name = list(actions)[(turn + number) % len(actions)]
            result = actions[name]()
            if turn > 0:
                results[name].append(result)
    return {name: {key: Figure(run[key] for run in runs) for key in runs[0]} for name, runs in results.items()}


def table(columns, rows):
    """Returns a table in Markdown."""
    lines = [[str(cell) for cell in line] for line in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in lines]
    return "\n".join([text[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *text[1:]])


def compared(what, found):
    """Returns a table of the figures of Sessions.lookups(), compared with the first."""
    baseline = next(iter(found.values()))

    def ratio(figures, key):
        return "1" if figures is baseline else f"{figures[key] / baseline[key]:.3f}"

    return table((what, "µs", "ratio", "lookups/s", "ratio"), [
        (name, f"{figures['us']:.2f}", ratio(figures, "us"), f"{figures['per_second']:,.0f}", ratio(figures, "per_second"))
        for name, figures in found.items()])


class Sessions:
    """Connections that run a statement at the same time."""

    def __init__(self, server, number=8, settings=None):
        # Neither the plan nor compilation may differ from one run to the next.
        settings = {"jit": "off", "max_parallel_workers_per_gather": "0", **(settings or {})}
        self.connections = [server.connect() for _ in range(number)]
        for connection in self.connections:
            for name, value in settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))

    def lookups(self, requests):
        """Each session looks up its requests. Returns the processor time of a lookup, over all sessions, and the lookups
        per second. Only the second counts time spent waiting, for a lock or for a processor."""
        sql = f"SELECT count(*), count(cache_lookup(user_id, content_type, cache_key)) FROM {requests} WHERE session = %s"
        counts = [None] * len(self.connections)

        def run(number):
            counts[number] = self.connections[number].execute(sql, (number + 1,)).fetchone()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(self.connections))]
        processor, began = self.processor_ns(), time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, processor = time.monotonic() - began, self.processor_ns() - processor
        lookups = sum(count for count, _ in counts)
        if lookups == 0 or any(hits != count for count, hits in counts):
            raise RuntimeError(f"not every request in {requests} has found its entry: {counts}")
        return {"us": processor / lookups / 1000, "per_second": lookups / seconds}

    def processor_ns(self):
        """Returns the processor time of the sessions' backends."""
        return sum(int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0])
                   for connection in self.connections)

    def close(self):
        for connection in self.connections:
            connection.close()


def rates(what, found, baseline=None, unit="lookups"):
    """Returns a table of rates per second, compared with a baseline, or else with the first row."""
    baseline = baseline or next(iter(found))
    return table((what, f"{unit}/s", "µs each, of a client", f"ratio to {baseline}"), [
        (name, f"{figures['per_second']:,.0f}", f"{figures['us']:.1f}",
         "1" if name == baseline else f"{figures['per_second'] / found[baseline]['per_second']:.3f}")
        for name, figures in found.items()])
