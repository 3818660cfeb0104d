"""README and the pages of docs/: their SQL runs and prints what they show, their links lead somewhere, and no page is left out."""

import os
import re
import subprocess

import pytest

from harness.cluster import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# A block of SQL, and what stands right below it: what psql prints.
BLOCK = re.compile(r"^```sql\n(.*?)^```\n(?:^```\n(.*?)^```\n)?", re.S | re.M)
MARK = "next block"


def blocks(page):
    return BLOCK.findall(page.read_text())


def psql(cluster, database, script):
    """What psql prints, errors where they happen."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PGHOST": str(cluster.directory), "PGUSER": "postgres", "PGCLIENTENCODING": "UTF8"}
    run = subprocess.run([cluster.bindir / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", database.name], input=script, env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.returncode == 0, run.stdout[-2000:]
    return run.stdout


def lines(text):
    """Without the blanks at the end of each, and the empty lines around them."""
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@pytest.fixture
def of_pages(cluster, empty_database):
    """An empty database; the roles that are made in it go with it."""
    roles = "SELECT quote_ident(rolname) FROM pg_roles"
    before = set(cluster.execute(roles))
    yield empty_database
    for (role,) in set(cluster.execute(roles)) - before:
        empty_database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_sql_of_a_page_prints_what_it_shows(cluster, of_pages, page):
    """Each page in a database of its own, after the first screen of README."""
    [(first_screen, _), *_] = blocks(README)
    if page != README:
        psql(cluster, of_pages, first_screen)
    script = ""
    for sql, shown in blocks(page):
        fails = "ON_ERROR_STOP 0" if re.search("^ERROR:", shown, re.M) else "ON_ERROR_STOP 1"
        script += f"\\echo {MARK}\n\\set {fails}\n{sql}"
    [_, *printed] = psql(cluster, of_pages, script).split(f"{MARK}\n")
    found = [(sql, lines(output)) for (sql, shown), output in zip(blocks(page), printed, strict=True) if shown]
    assert found == [(sql, lines(shown)) for sql, shown in blocks(page) if shown]


def test_the_first_screen_fits_a_screen():
    text = README.read_text()
    statements, shown = blocks(README)[0]
    assert text[: text.index(shown) + len(shown)].count("\n") < 35
    assert statements.count(";") == 3 and shown
    assert text.count("\n") <= 120


# ── links ────────────────────────────────────────────────────────────────────────────────────────

def prose(page):
    """The text without what stands in blocks."""
    return re.sub(r"^```.*?^```\n", "", page.read_text(), flags=re.S | re.M)


def anchors(page):
    """As GitHub makes them of headings."""
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", prose(page), re.M)]


WITH_LINKS = [*PAGES, *(ROOT / name for name in ("SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/README.md"))]


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: page.name)
def test_links_lead_to_a_page_and_a_heading(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match("https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(target)
        elif anchor and anchor not in anchors(file):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_two_headings_of_a_page_have_one_anchor(page):
    assert len(set(anchors(page))) == len(anchors(page))


def test_the_table_of_readme_has_every_page():
    listed = set(re.findall(r"^\| \[[^]]+\]\(docs/(\S+)\) \|", README.read_text(), re.M))
    assert listed == {page.name for page in PAGES if page != README}


# ── files and tests that pages name ──────────────────────────────────────────────────────────────

@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = re.findall(r"`((?:src|sql|tests|bench|docs|examples)/[\w./-]*)`", prose(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_test_that_security_md_names_exists():
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)
