"""The patterns of docs/leases.md do what they are there for, each in its language, against a server."""

import json
import re
import threading
import time

import pytest

from harness import node
from harness.cluster import ROOT
from harness.entries import ALICE, lookup, upsert
from harness.leases import fetch, set_policy

PAGE = (ROOT / "docs/leases.md").read_text()
FOUNDATION = (ALICE, "story_foundation", "f")
CHAPTER = (ALICE, "chapter_content", "c")

# What each program does: chapters asked for at once, each by a client of its own. Its generator takes a while, notes what it has read, and
# fails, or has the foundation edited meanwhile, as often as it is told. It prints what each got, and what the generators read.
TYPESCRIPT = """
import pg from "pg";
import { chapter } from "./pattern.ts";

const [host, database, clients, failures, edits, user] = process.argv.slice(2);
const db = new pg.Pool({ host, database, user: "postgres", max: 20 });
const read: string[] = [];
let [toFail, toEdit] = [Number(failures), Number(edits)];
const generate = async (source: string) => {
  read.push(source);
  await new Promise((done) => setTimeout(done, 300));
  if (toFail-- > 0) throw new Error("the model is down");
  if (toEdit-- > 0) await db.query("SELECT cache_upsert($1, 'story_foundation', 'f', to_jsonb('edited'::text)), cache_invalidate_dependents($1, 'f')", [user]);
  return { from: source };
};
const answers = await Promise.all(Array.from({ length: Number(clients) }, () => chapter(db, user, "c", "f", generate).catch((error) => error.message)));
console.log(JSON.stringify({ answers, read }));
await db.end();
"""


def block(language):
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)
    return found


def in_python(database, clients, failures=0, edits=0):
    names, answers, read, left = {}, [], [], {"failures": failures, "edits": edits}
    exec(block("python"), names)

    def generate(source):
        read.append(source)
        time.sleep(0.3)
        left["failures"] -= 1
        if left["failures"] >= 0:
            raise RuntimeError("the model is down")
        left["edits"] -= 1
        if left["edits"] >= 0:
            database.execute("SELECT cache_upsert(%s, 'story_foundation', 'f', '\"edited\"'), cache_invalidate_dependents(%s, 'f')", (ALICE, ALICE))
        return {"from": source}

    def ask():
        with database.connect() as connection:
            try:
                answers.append(names["chapter"](connection, ALICE, "c", "f", generate))
            except (RuntimeError, TimeoutError) as error:
                answers.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers, read


def in_typescript(database, clients, failures=0, edits=0):
    (node.folder() / "pattern.ts").write_text(block("typescript"))
    printed = node.run("ask.ts", TYPESCRIPT, str(database.cluster.directory), database.name, str(clients), str(failures), str(edits), ALICE)
    told = json.loads(printed)
    return told["answers"], told["read"]


LANGUAGES = pytest.mark.parametrize("ask", [in_python, in_typescript])


@pytest.fixture
def founded(database):
    upsert(database.connect(), '"first"', FOUNDATION)
    return database


@LANGUAGES
def test_of_eight_that_miss_at_once_one_generates_and_all_get_it(founded, ask):
    answers, read = ask(founded, 8)
    assert answers == [{"from": "first"}] * 8 and read == ["first"]
    assert lookup(founded.connect(), CHAPTER) == {"from": "first"}


@LANGUAGES
def test_what_was_made_from_an_edited_foundation_is_made_again(founded, ask):
    answers, read = ask(founded, 3, edits=1)
    assert answers == [{"from": "edited"}] * 3 and read == ["first", "edited"]
    assert lookup(founded.connect(), CHAPTER) == {"from": "edited"}


@LANGUAGES
def test_a_failure_is_told_to_all_and_paid_for_once(founded, ask):
    answers, read = ask(founded, 4, failures=1)
    assert sorted(answers) == ["c could not be generated"] * 3 + ["the model is down"] and read == ["first"]
    assert lookup(founded.connect(), CHAPTER) is None


@LANGUAGES
def test_a_stale_answer_is_served_while_one_generates(founded, ask):
    founded.execute("UPDATE cache_content_policies SET stale_ttl = '1 hour'")
    with founded.connect() as connection:
        upsert(connection, '{"from": "before"}', CHAPTER, foundation_dependency="f")
        connection.execute("UPDATE infinite_pages_cache_partitioned SET expires_at = now() - interval '1 second' WHERE cache_key = 'c'")
    answers, read = ask(founded, 4)
    assert sorted(answers, key=str) == [{"from": "before"}] * 3 + [{"from": "first"}] and read == ["first"]


@LANGUAGES
def test_who_may_not_sleep_asks_until_the_answer_is_there(founded, ask):
    """As behind a pool, while as many sleep as may."""
    founded.execute(f"ALTER DATABASE {founded.name} SET infinite_pages_cache.max_fetch_wait = 0")
    set_policy(founded, CHAPTER[1], lease_ttl="5 seconds")
    with founded.connect() as other:
        lease = fetch(other, CHAPTER, foundation_dependency="f").lease

        def store():
            time.sleep(4.5)
            upsert(other, '{"from": "another"}', CHAPTER, foundation_dependency="f", lease=lease)

        thread = threading.Thread(target=store)
        thread.start()
        answers, read = ask(founded, 2)
        thread.join()
    assert answers == [{"from": "another"}] * 2 and read == []


@pytest.mark.parametrize("language", ["python", "typescript"])
def test_a_pattern_has_25_lines_at_most(language):
    assert block(language).count("\n") <= 25


def test_the_pattern_in_sql_has_25_lines_at_most():
    section = PAGE[PAGE.index("## The pattern in SQL"):]
    assert re.search(r"^```sql\n(.*?)^```$", section, re.S | re.M)[1].count("\n") <= 25
