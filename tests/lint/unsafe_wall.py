#!/usr/bin/env python3
"""The wall around src/pg: unsafe code stands nowhere else.

The compiler holds it where it can: the rooms of src/lib.rs forbid unsafe code, which nothing in them can allow again. A room
cannot forbid what a macro of src/pg makes in it, such as a C function. There this check reads what stands in the files.
"""

import pathlib
import re
import sys

SOURCES = pathlib.Path(__file__).resolve().parents[2] / "src"
NO_CODE = re.compile(r"""//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\.|[^'\\])'""", re.DOTALL)
UNSAFE = re.compile(r"\bunsafe\b|\b(?:allow|warn|expect)\s*\([^)]*\bunsafe_code\b")


def code_of(text):
    """The text without comments, strings and characters; each line stays where it is."""
    return NO_CODE.sub(lambda found: " " + "\n" * found[0].count("\n"), text)


def unsafe_macros(pg):
    """The macros of src/pg that make unsafe code where they are used."""
    macros = (found for text in pg for found in re.findall(r"^macro_rules! (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    return {name for name, body in macros if UNSAFE.search(code_of(body))}


def main():
    sources = {path.relative_to(SOURCES): path.read_text() for path in sorted(SOURCES.rglob("*.rs"))}
    pg = [text for path, text in sources.items() if path.parts[0] == "pg"]
    others = {path: code_of(text) for path, text in sources.items() if path.parts[0] != "pg"}
    uses_macro = re.compile(rf"\b(?:{'|'.join(unsafe_macros(pg))})!")
    exempt = {"pg", "tests"} | {path.parts[0].removesuffix(".rs") for path, code in others.items() if uses_macro.search(code)}

    wrong = [
        f"src/{path}:{code.count(chr(10), 0, found.start()) + 1}: unsafe code outside src/pg"
        for path, code in others.items()
        for found in UNSAFE.finditer(code)
    ]
    for attributes, room in re.findall(r"^((?:#\[.*\]\n)*)mod (\w+);", sources[pathlib.Path("lib.rs")], re.MULTILINE):
        if room not in exempt and "#[forbid(unsafe_code)]" not in attributes:
            wrong.append(f"src/lib.rs: {room} does not forbid unsafe code, though no macro of src/pg makes any in it")

    for line in wrong:
        print(line, file=sys.stderr)
    blocks = sum(len(re.findall(r"\bunsafe \{", code_of(text))) for text in pg)
    print(f"{blocks} unsafe blocks in src/pg, {len(wrong)} holes in the wall around it")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
