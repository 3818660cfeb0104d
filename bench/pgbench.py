"""Statements sent by pgbench, prepared, by several clients at the same time."""

import os
import statistics


def pgbench(server, scripts, seconds=2, clients=8, variables=None, settings=None, each=1, p50=False):
    """Runs a script, or several in equal shares; `each` is how many operations a transaction does. Returns operations
    per second, the mean time of one and, if wanted, the median, in microseconds."""
    arguments = []
    for number, script in enumerate([scripts] if isinstance(scripts, str) else scripts):
        file = server.directory / f"script{number}.sql"
        file.write_text(script)
        arguments += ["-f", file]
    # A variable of the command line may be any text.
    for name, value in (variables or {}).items():
        arguments += ["-D", f"{name}={value}"]
    logs = server.directory / "transactions"
    if p50:
        arguments += ["-l", f"--log-prefix={logs}"]
    options = " ".join(f"-c {name}={value}" for name, value in {"jit": "off", **(settings or {})}.items())
    done = server.client("pgbench", "-n", "-M", "prepared", "-c", clients, "-j", min(clients, os.cpu_count()), "-T", seconds,
                         *arguments, "postgres", environment={"PGOPTIONS": options})
    report = dict(line.split(" = ", 1) for line in done.stdout.splitlines() if " = " in line)
    processed = next(line.split(": ")[1] for line in done.stdout.splitlines() if "transactions actually processed" in line)
    rate = float(report["tps"].split()[0]) * each
    result = {"per_second": rate, "us": 1e6 * clients / rate, "done": int(processed.split("/")[0]) * each}
    if p50:
        times = []
        for log in server.directory.glob("transactions.*"):
            with log.open() as lines:
                times += [int(line.split()[2]) for line in lines]
            log.unlink()
        result["p50"] = statistics.median(times) / each
    return result
