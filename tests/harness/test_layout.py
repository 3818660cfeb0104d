"""The layout of tests: suites import from the harness, never from each other, and fixtures come from a conftest.py."""

import ast

import pytest

from harness.cluster import ROOT

TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))


def imported(path):
    """The last part of each module that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[-1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[-1] for alias in node.names)


def is_fixture(node):
    return isinstance(node, ast.FunctionDef) and any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)


def is_suite(name):
    return name.startswith("test_") or name.endswith("_matrix") or name == "conftest"


def test_no_module_imports_from_a_suite():
    found = [(str(path.relative_to(TESTS)), module) for path in FILES for module in imported(path) if is_suite(module)]
    assert len(FILES) > 90 and found == []


def test_the_readme_names_each_folder():
    readme = (TESTS / "README.md").read_text()
    folders = [path.name for path in TESTS.iterdir() if path.is_dir() and path.name[0] not in "._"]
    assert [folder for folder in folders if f"`{folder}/`" not in readme] == []


def test_names_of_suites_are_unique():
    """pytest imports a suite by its name alone."""
    names = [path.name for path in FILES if path.name.startswith("test_")]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "conftest.py"], ids=lambda path: path.parent.name)
def test_a_conftest_holds_fixtures_alone(path):
    """Beside imports, its docstring, and what it tells pytest."""
    others = [ast.unparse(node) for node in ast.parse(path.read_text()).body
              if not (isinstance(node, (ast.Import, ast.ImportFrom, ast.Expr)) or is_fixture(node))]
    assert others == []


def test_the_harness_defines_no_fixtures():
    """A fixture that is imported stands in two modules, and pytest cannot tell which one is meant."""
    found = [(path.name, node.name) for path in sorted((TESTS / "harness").glob("*.py")) if not is_suite(path.stem)
             for node in ast.parse(path.read_text()).body if is_fixture(node)]
    assert found == []
