"""A cluster whose clock the test sets."""

import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

from harness.cluster import BINDIR, ROOT, Cluster


class ClockCluster(Cluster):
    """A cluster whose server preloads clock.c. libfaketime does not serve, because it hangs now and then in signal handlers, and
    shows the true time to background workers of PostgreSQL 15 and older."""

    def __init__(self, settings=None, bindir=BINDIR):
        self.clock = Path(tempfile.mkdtemp(prefix="ipc-clock-"))
        self.clock.chmod(0o755)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", self.clock / "clock.so", ROOT / "tests/harness/clock.c"], check=True)
        (self.clock / "offset").write_bytes(bytes(8))
        super().__init__(settings, {"LD_PRELOAD": str(self.clock / "clock.so"), "CLOCK_FILE": str(self.clock / "offset")}, bindir)

    def set_clock(self, moment):
        """Set the server's clock to a moment, from which it runs on."""
        microseconds = (moment - datetime.now(timezone.utc)) // timedelta(microseconds=1)
        with open(self.clock / "offset", "r+b", buffering=0) as file:
            file.write(microseconds.to_bytes(8, sys.byteorder, signed=True))

    def remove(self):
        try:
            super().remove()
        finally:
            shutil.rmtree(self.clock, ignore_errors=True)
