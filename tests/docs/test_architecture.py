"""The files of src/ import each other without a circle, and its rooms as docs/architecture.md draws them under "The map".

A room is a folder of src/ or a file beside the folders. `python3 tests/docs/test_architecture.py --print` prints the map.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[2]
SRC = ROOT / "src"
PAGE = ROOT / "docs/architecture.md"
# Every room may import these: the map says it once.
GROUND = ["settings", "extension", "pg", "error"]


def modules():
    """The file of each module by its path, () of the crate's root. Tests are no part of the house."""
    found = {}
    for file in SRC.rglob("*.rs"):
        path = file.relative_to(SRC).with_suffix("").parts
        path = path[:-1] if path[-1] in ("mod", "lib") else path
        if path != ("tests",):
            found[path] = file
    return found


def code(text):
    """Rust without comments, texts and unit tests."""
    text = re.sub(r'r#"(?s:.*?)"#|"(?:\\(?s:.)|[^"\\])*"|//[^\n]*', lambda token: "" if token[0][0] == "/" else '""', text)
    return re.sub(r"#\[cfg\(test\)\]\n(?:pub )?mod \w+ \{\n(?s:.*?)\n\}", "", text)


def paths_of(tree):
    """The paths that a tree of `use` names."""
    start, brace, rest = tree.partition("{")
    if not brace:
        return [re.split(r"::", tree.split(" as ")[0].strip())]
    names, depth = [""], 0
    for char in rest.rpartition("}")[0]:
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            names.append("")
        else:
            names[-1] += char
    prefix = start.strip().removesuffix("::").split("::")
    return [prefix + path for name in names if name.strip() for path in paths_of(name.strip())]


def imports(module, text, known):
    """The modules that a module names, in `use` and elsewhere."""
    children = [path[-1] for path in known if path and path[:-1] == module]
    first = "|".join(["crate", "super", "self", *children])
    text = code(text)
    used = re.findall(rf"\buse\s+((?:{first})\b[^;]*);", text)
    paths = [path for tree in used for path in paths_of(tree)]
    paths += [path.split("::") for path in re.findall(rf"(?<![\w:])((?:{first})(?:::\w+)+)", text)]
    for path in paths:
        place, rest = module, list(path)
        if rest[0] == "crate":
            place = ()
        while rest and rest[0] in ("crate", "self", "super"):
            place = place[:-1] if rest.pop(0) == "super" else place
        for name in rest:
            if (*place, name) in known:
                place = (*place, name)
        if place != module:
            yield place


def arrows():
    known = modules()
    return {module: set(imports(module, file.read_text(), known)) for module, file in known.items()}


def circle(graph):
    """A way from a node back to it, if there is one."""
    done = set()

    def walk(way):
        for following in sorted(graph[way[-1]]):
            if following in way:
                return [*way[way.index(following) :], following]
            if following not in done and (found := walk([*way, following])):
                return found
        done.add(way[-1])
        return None

    return next((found for node in sorted(graph) if node not in done and (found := walk([node]))), None)


def room(module):
    return module[0] if module else "lib"


def rooms():
    graph = {}
    for module, others in arrows().items():
        graph.setdefault(room(module), set()).update(map(room, others))
    return {name: others - {name} for name, others in graph.items()}


def written(name):
    return f"{name}/" if (SRC / name).is_dir() else f"{name}.rs"


def from_roof_to_ground(graph):
    floors = {}

    def floor(name):
        if name not in floors:
            floors[name] = 1 + max(map(floor, graph[name]), default=0)
        return floors[name]

    return sorted(graph, key=lambda name: (-floor(name), name))


def rows():
    """The rows of the map, from the roof to the ground: each room and those that it imports."""
    graph = rooms()
    order = from_roof_to_ground(graph)
    for name in order:
        others = [other for other in order if other in graph[name] and (name in GROUND or other not in GROUND)]
        yield f"`{written(name)}`", ", ".join(f"`{written(other)}`" for other in others)


def head(name):
    """The first sentence of the comment that a room begins with."""
    file = next(file for module, file in modules().items() if module in ((name,), () if name == "lib" else None))
    comment = " ".join(line[3:].strip() for line in file.read_text().splitlines() if line.startswith("//!"))
    return comment.partition(". ")[0].removesuffix(".")


def test_no_file_imports_itself_by_way_of_others():
    way = circle(arrows())
    assert way is None, " → ".join("/".join(module) or "lib" for module in way)


def test_no_room_imports_itself_by_way_of_others():
    way = circle(rooms())
    assert way is None, " → ".join(way)


def test_the_map_is_that_of_the_house():
    section = PAGE.read_text().partition("\n## The map\n")[2].partition("\n## ")[0]
    drawn = re.findall(r"^\| (`[^|]*`) \|.*\|([^|]*)\|$", section, re.M)
    assert [(name, others.strip()) for name, others in drawn] == list(rows()), f"python3 {__file__} --print"


def test_imports_are_found():
    known = {(), ("a",), ("a", "b"), ("a", "b", "d"), ("a", "c"), ("e",)}
    for text, expected in [
        ("use super::b::{C, d::E};", {("a", "b"), ("a", "b", "d")}),
        ("use crate::{a::b, e as f};", {("a", "b"), ("e",)}),
        ("crate::a::b::macro!(x); // crate::e::y", {("a", "b")}),
        ('#[cfg(test)]\nmod tests {\n    use crate::e;\n}\nlet text = "crate::e";', set()),
    ]:
        assert set(imports(("a", "c"), text, known)) == expected, text
    assert set(imports((), "a::b::C.d(); use e::F;", known)) == {("a", "b"), ("e",)}


if __name__ == "__main__" and "--print" in sys.argv:
    print(f"Every room above them may import {', '.join(f'`{written(name)}`' for name in GROUND)}.\n")
    print("| room | what it is | imports, beside these |\n|---|---|---|")
    for name, others in rows():
        print(f"| {name} | {head(pathlib.PurePath(name.strip('`')).stem)} | {others} |")
