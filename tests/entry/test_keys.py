"""Keys are those of RFC 8785 in every language, with all digits of numbers, digests never change, and a tenant's lookup finds its row by the index."""

import hashlib
import json
import random
import struct
import uuid
from decimal import Decimal

import psycopg
import pytest
import rfc8785

from harness.database import Database
from harness.entries import ALICE, BOB
from harness.errors import sqlstate_of
from harness.plans import nodes, rows_read

# The sample objects of RFC 8785, sections 3.2.2 and 3.2.3, with their canonical form from 3.2.4. A number of the first has two digits more
# there (333333333.33333329) than its double prints back: see test_a_number_that_its_double_does_not_print_back_keeps_its_digits.
SAMPLE = r"""{
  "numbers": [333333333.3333333, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
SAMPLE_CANONICAL = bytes.fromhex(
    "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b3333333333333333332e333333333333332c"
    "31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282ac245c75303030665c6e4127425c225c5c5c5c5c222f227d")
SORTING = r"""{
  "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"
}"""
SORTING_CANONICAL = ('{"\\r":"Carriage Return","1":"One","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis",'
                     '"\u20ac":"Euro Sign","\U0001f600":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}').encode()

# Appendix B: IEEE 754 bits and their representation.
NUMBERS = [
    ("0000000000000000", "0"), ("8000000000000000", "0"), ("0000000000000001", "5e-324"), ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"), ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"), ("c340000000000000", "-9007199254740992"), ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"), ("44b52d02c7e14af6", "1e+23"), ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"), ("444b1ae4d6e2ef4f", "999999999999999900000"), ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"), ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"), ("41b3de4355555554", "333333333.33333325"), ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"), ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"), ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.fixture(scope="module")
def keys(cluster):
    database = Database(cluster)
    yield database
    database.drop()


def sha256(canonical):
    return hashlib.sha256(canonical).hexdigest()


def test_the_examples_of_the_rfc(keys):
    for sample, canonical in ((SAMPLE, SAMPLE_CANONICAL), (SORTING, SORTING_CANONICAL)):
        assert rfc8785.dumps(json.loads(sample)) == canonical
        assert keys.value("SELECT cache_key(%s::jsonb)", (sample,)) == sha256(canonical)


@pytest.mark.parametrize("bits, canonical", NUMBERS)
def test_the_numbers_of_the_rfc(keys, bits, canonical):
    number = struct.unpack(">d", bytes.fromhex(bits))[0]
    for written in (repr(number), canonical, f"{Decimal(canonical):f}", f"{Decimal(canonical):.30e}"):
        assert keys.value("SELECT cache_key(%s::jsonb)", (f"[{written}]",)) == sha256(f"[{canonical}]".encode())


@pytest.mark.parametrize("written, canonical", [
    ("-0", "0"), ("-0.0", "0"), ("0e99", "0"), ("1e21", "1e+21"), ("1e-7", "1e-7"), ("1.0", "1"), ("1E2", "100"), ("5e-324", "5e-324"),
    ("1.7976931348623157e308", "1.7976931348623157e+308"),
    ("9007199254740991", "9007199254740991"), ("-9007199254740991", "-9007199254740991"), ("9007199254740992", "9007199254740992"),
    ('"\\u00e9\\u0065\\u0301"', '"\u00e9e\u0301"'), ('"\\u007f\\u0080\\u2028\\/"', '"\u007f\u0080\u2028/"'),
    ('"\\b\\t\\n\\f\\r\\u0001\\u001f"', '"\\b\\t\\n\\f\\r\\u0001\\u001f"'), ("null", "null"), ("{}", "{}"), ("[]", "[]"), ('""', '""'),
    ('{"b": {"d": 1, "c": 2}, "a": [{"z": 1, "y": 2}]}', '{"a":[{"y":2,"z":1}],"b":{"c":2,"d":1}}'),
    ('{"a": 1, "a": 2}', '{"a":2}'), ('{"": 1, "aa": 2, "a": 3, "A": 4}', '{"":1,"A":4,"a":3,"aa":2}'),
])
def test_a_key_is_the_sha256_of_the_canonical_form(keys, written, canonical):
    assert keys.value("SELECT cache_key(%s::jsonb)", (written,)) == sha256(canonical.encode())


@pytest.mark.parametrize("written, canonical", [
    ("333333333.33333329", "333333333.33333329"), ("9007199254740993", "9007199254740993"), ("1234567890123456789", "1234567890123456789"),
    ("18446744073709551615", "18446744073709551615"), ("-9223372036854775808", "-9223372036854775808"),
    ("295147905179352825856", "295147905179352825856"), ("123456789012345678901234567890", "1.2345678901234567890123456789e+29"),
    ("0.10000000000000000001", "0.10000000000000000001"), ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
    ("0.00000010000000000000000001", "1.0000000000000000001e-7"),
    # Beyond every double, up to where PostgreSQL's numbers end.
    ("2e-324", "2e-324"), ("1e-400", "1e-400"), ("1e400", "1e+400"), ("-1.50e309", "-1.5e+309"), ("9" * 400, "9." + "9" * 399 + "e+399"),
    ("1e131071", "1e+131071"), ("1e-16383", "1e-16383"), ("9" * 131072, "9." + "9" * 131071 + "e+131071"),
], ids=lambda number: number[:40])
def test_a_number_that_its_double_does_not_print_back_keeps_its_digits(keys, written, canonical):
    assert Decimal(written) == Decimal(canonical) and (abs(float(written)) == float("inf") or Decimal(repr(float(written))) != Decimal(written))
    assert keys.value("SELECT cache_key(%s::jsonb)", (f"[{written}]",)) == sha256(f"[{canonical}]".encode())


def test_what_postgresql_has_no_number_for_is_refused_by_it(keys):
    for written in ("1e131072", "-1e131072", "1e-16384", "1e200000"):
        assert sqlstate_of(lambda: keys.execute("SELECT cache_key(%s::jsonb)", (f"[{written}]",))).sqlstate == "22003"


def test_the_answer_of_one_request_is_not_served_for_another(keys):
    for one, other in [("1234567890123456789", "1234567890123456788"), ("9007199254740993", "9007199254740992"),
                       ("0.1", "0.10000000000000000001"), ("1e400", "1e401"), ("0", "1e-400")]:
        request = '{{"id": {}}}'.format
        keys.execute("SELECT cache_upsert(%s, 't', cache_key(%s::jsonb), to_jsonb(%s::text))", (ALICE, request(one), one))
        for asked, answer in ((one, one), (other, None)):
            assert keys.value("SELECT cache_lookup(%s, 't', cache_key(%s::jsonb))", (ALICE, request(asked))) == answer


def test_a_client_library_of_the_rfc_rounds_such_a_number_or_refuses_it():
    """As docs/reference.md says."""
    assert rfc8785.dumps(json.loads("0.10000000000000000001")) == b"0.1"
    with pytest.raises(rfc8785.IntegerDomainError):
        rfc8785.dumps(json.loads("9007199254740993"))


def random_text(rng):
    ranges = [(0x20, 0x7e), (0x01, 0x1f), (0x7f, 0xff), (0x400, 0x4ff), (0x2028, 0x2029), (0xe000, 0xffff), (0x10000, 0x10ffff)]
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 6)))


def random_number(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randint(-2 ** 53 + 1, 2 ** 53 - 1)
    if kind == 1:
        return rng.uniform(-1000, 1000)
    if kind == 2:
        return round(rng.uniform(-1000, 1000), 2)
    number = struct.unpack(">d", rng.randbytes(8))[0]
    return number if abs(number) < float("inf") else 0.5


def random_document(rng, depth=4):
    kind = rng.randrange(7 if depth else 4)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        return random_number(rng)
    if kind == 3:
        return random_text(rng)
    if kind == 4:
        return [random_document(rng, depth - 1) for _ in range(rng.randint(0, 5))]
    return {random_text(rng): random_document(rng, depth - 1) for _ in range(rng.randint(0, 6))}


def test_random_documents_have_the_keys_of_another_implementation(keys):
    rng = random.Random(8785)
    documents = [random_document(rng) for _ in range(600)] + [[random_number(rng) for _ in range(2000)]]
    with keys.connect() as connection:
        for document in documents:
            written = json.dumps(document, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
            found = connection.execute("SELECT cache_key(%s::jsonb)", (written,)).fetchone()[0]
            assert (written, found) == (written, sha256(rfc8785.dumps(document)))


def test_nesting_up_to_127_levels(keys):
    for nested in ("[" * 127 + "]" * 127, '{"a":' * 127 + "1" + "}" * 127):
        assert keys.value("SELECT cache_key(%s::jsonb)", (nested,)) == sha256(nested.encode())


def test_no_request_has_no_key(keys):
    assert keys.value("SELECT cache_key(NULL)") is None


def test_keys_in_a_database_of_another_encoding(cluster):
    """The same as everywhere, or the extension refuses such a database."""
    with cluster.connect() as connection:
        connection.execute("CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with cluster.connect("latin1", client_encoding="utf8") as connection:
            try:
                connection.execute("CREATE EXTENSION infinite_pages_cache")
            except psycopg.Error as error:
                assert error.diag.sqlstate in ("0A000", "55000") and error.diag.message_hint
                return
            for letter in "éè":
                assert connection.execute("SELECT cache_key(%s::jsonb)", (f'["{letter}"]',)).fetchone()[0] == sha256(f'["{letter}"]'.encode())
            batch = json.dumps([{"user_id": ALICE, "content_type": "t", "cache_key": "é", "content": "è"}], ensure_ascii=False)
            connection.execute("SELECT cache_upsert_many(%s)", (batch,))
            assert connection.execute("SELECT cache_lookup(%s, 't', 'é')", (ALICE,)).fetchone() == ("è",)
    finally:
        with cluster.connect() as connection:
            connection.execute("DROP DATABASE latin1 WITH (FORCE)")


def digest(content_type, cache_key):
    """Of the content type's length in 64 bits, the content type and the key."""
    content_type, cache_key = content_type.encode(), cache_key.encode()
    return uuid.UUID(bytes=hashlib.sha256(struct.pack(">Q", len(content_type)) + content_type + cache_key).digest()[:16])


def test_the_digest_never_changes(keys):
    # Fixed for all releases: indexes hold them.
    assert keys.value("SELECT cache_entry_digest('story_foundation', 'k1')") == uuid.UUID("2939e4cf-d272-0e45-36d8-3797421daa19")
    rng = random.Random(128)
    pairs = [("", ""), ("ab", "c"), ("a", "bc"), ("kapitel", "ключ 🔑"), ("x" * 100_000, "y" * 100_000)]
    pairs += [(random_text(rng), random_text(rng)) for _ in range(300)]
    with keys.connect() as connection:
        for content_type, cache_key in pairs:
            found = connection.execute("SELECT cache_entry_digest(%s, %s)", (content_type, cache_key)).fetchone()[0]
            assert (content_type, cache_key, found) == (content_type, cache_key, digest(content_type, cache_key))
        assert connection.execute("SELECT cache_entry_digest(NULL, 'k'), cache_entry_digest('t', NULL)").fetchone() == (None, None)


def test_the_digest_may_stand_in_an_index_condition_under_row_security(keys):
    assert keys.execute("SELECT proleakproof, provolatile::text, proparallel::text, proisstrict FROM pg_proc WHERE proname = 'cache_entry_digest'"
                        ) == [(True, "i", "s", True)]


CONDITION = ("user_id = %(user)s AND cache_entry_digest(content_type, cache_key) = cache_entry_digest(%(type)s, %(key)s) "
             "AND content_type = %(type)s AND cache_key = %(key)s")


@pytest.fixture
def tenant(roles, database):
    """A connection as Alice's, with 6,000 entries of hers and Bob's in the table."""
    database.execute("SELECT cache_grant_tenant('authenticated')")
    database.execute(
        "INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content) "
        "SELECT u::uuid, 't', 'k' || n, to_jsonb(n) FROM unnest(ARRAY[%s, %s]) u, generate_series(1, 3000) n", (ALICE, BOB))
    database.execute("ANALYZE")
    with database.connect() as connection:
        connection.execute("SELECT set_config('request.jwt.claims', %s, false)", (json.dumps({"sub": ALICE}),))
        connection.execute("SET ROLE authenticated")
        yield connection


@pytest.mark.parametrize("plan_cache_mode", ["force_custom_plan", "force_generic_plan"])
def test_a_tenants_lookup_is_planned_with_the_index(tenant, plan_cache_mode):
    tenant.execute(f"SET plan_cache_mode = {plan_cache_mode}")
    plan = tenant.execute("EXPLAIN (FORMAT JSON) SELECT content FROM infinite_pages_cache_partitioned "
                          f"WHERE {CONDITION} ORDER BY created_at DESC LIMIT 1", {"user": ALICE, "type": "t", "key": "k7"},
                          prepare=True).fetchone()[0][0]["Plan"]
    full = tenant.execute("SELECT to_char(now() AT TIME ZONE 'UTC', '\"infinite_pages_cache_\"YYYY_MM')").fetchone()[0]
    scans = [node for node in nodes(plan) if node.get("Relation Name") == full]
    assert [node["Node Type"] for node in scans] == ["Index Scan"]
    assert "user_id" in scans[0]["Index Cond"] and "cache_entry_digest" in scans[0]["Index Cond"]


@pytest.mark.parametrize("call", [
    "cache_lookup(%(user)s, 't', 'k7')", "cache_get(%(user)s, 't', 'k7')", "cache_lookup_many(%(user)s, 't', '{k7,k8,none}')",
    "cache_touch(%(user)s, 't', 'k7')", "cache_upsert(%(user)s, 't', 'k7', '1')", "cache_invalidate(%(user)s, 't', 'k7')",
])
def test_a_tenants_call_reads_a_few_rows_by_the_index(tenant, call):
    with tenant.transaction():
        tenant.execute(f"SELECT * FROM {call}", {"user": ALICE})
        tenant.execute("SET LOCAL ROLE postgres")
        scanned, fetched = rows_read(tenant)
        assert scanned == 0 and 1 <= fetched <= 20


def test_a_lookup_planned_while_the_table_was_empty_uses_the_index_once_it_is_full(database):
    database.execute("ANALYZE")
    with database.connect() as connection:
        for _ in range(10):
            connection.execute("SELECT cache_lookup(%s, 't', 'k7')", (ALICE,))
        database.execute("INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content) "
                         "SELECT %s, 't', 'k' || n, to_jsonb(n) FROM generate_series(1, 3000) n", (ALICE,))
        with connection.transaction():
            assert connection.execute("SELECT cache_lookup(%s, 't', 'k7')", (ALICE,)).fetchone() == (7,)
            assert rows_read(connection) == (0, 1)
