//! Tests of SQL behaviour in one session. `tests/` tests what needs several sessions, roles, restarts or another clock.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    const ALICE: &str = "a11ce000-0000-4000-8000-000000000001";

    /// Returns the single value of a statement, as text; `$A` stands for a user.
    fn value(sql: &str) -> Option<String> {
        let sql = sql.replace("$A", &format!("'{ALICE}'"));
        Spi::get_one::<String>(&format!("SELECT (x.v)::text FROM ({sql}) AS x (v)")).expect("the statement runs")
    }

    fn is(sql: &str, expected: &str) {
        assert_eq!(value(sql).as_deref(), Some(expected), "{sql}");
    }

    fn is_null(sql: &str) {
        assert_eq!(value(sql), None, "{sql}");
    }

    #[pg_test]
    fn a_time_to_live_is_an_interval_or_infinity() {
        is("SELECT '7 days'::cache_ttl", "7 days");
        is("SELECT '1 month 1 day 1 second'::cache_ttl", "31 days 00:00:01");
        is("SELECT ' Infinity '::cache_ttl", "infinity");
        is("SELECT (interval '36 hours')::cache_ttl", "1 day 12:00:00");
        is("SELECT '1 microsecond'::cache_ttl", "00:00:00.000001");
    }

    #[pg_test(error = "a time to live must be positive")]
    fn a_time_to_live_of_zero_is_refused() {
        value("SELECT '0'::cache_ttl");
    }

    #[pg_test(error = "a time to live must be positive")]
    fn a_negative_interval_is_no_time_to_live() {
        value("SELECT (interval '1 day' - interval '2 days')::cache_ttl");
    }

    #[pg_test]
    fn a_miss_is_null_and_a_hit_is_the_content() {
        is_null("SELECT cache_lookup($A, 't', 'k')");
        value("SELECT cache_upsert($A, 't', 'k', '{\"b\": [1, 2.50], \"a\": null}')");
        is("SELECT cache_lookup($A, 't', 'k')", r#"{"a": null, "b": [1, 2.50]}"#);
        is_null("SELECT cache_lookup($A, 't', 'K')");
        is_null("SELECT cache_lookup('b0b00000-0000-4000-8000-000000000002', 't', 'k')");
    }

    #[pg_test]
    fn json_null_can_be_cached() {
        value("SELECT cache_upsert($A, 't', 'k', 'null')");
        is("SELECT cache_lookup($A, 't', 'k')", "null");
    }

    #[pg_test]
    fn large_content_comes_back_whole() {
        value("SELECT cache_upsert($A, 't', 'k', jsonb_build_object('text', repeat('Lisbon ', 1000000)))");
        is("SELECT length(cache_lookup($A, 't', 'k') ->> 'text')", "7000000");
    }

    #[pg_test]
    fn a_search_finds_by_metadata_the_best_first() {
        for (key, genre, score) in [("a", "noir", 3), ("b", "horror", 9), ("c", "noir", 7)] {
            let metadata = format!(r#"{{"genre": "{genre}", "words": 500}}"#);
            value(&format!(
                "SELECT cache_upsert($A, 't', '{key}', '1', metadata => '{metadata}', reuse_score => {score})"
            ));
        }
        let found = |metadata: &str, limit: u32| {
            value(&format!("SELECT string_agg(cache_key, '') FROM cache_search($A, 't', '{metadata}', {limit})"))
        };
        assert_eq!(found(r#"{"genre": "noir"}"#, 10).as_deref(), Some("ca"));
        assert_eq!(found(r#"{"words": 500}"#, 2).as_deref(), Some("bc"));
        assert_eq!(found(r#"{"genre": "western"}"#, 10), None);
    }

    #[pg_test]
    fn what_a_call_does_not_say_comes_from_the_content_policy() {
        let cost = "SELECT token_cost FROM cache_get($A, 'story_foundation', 'k')";
        let lifetime = "SELECT expires_at - created_at FROM cache_get($A, 'story_foundation', 'k')";
        value("SELECT cache_upsert($A, 'story_foundation', 'k', '1')");
        is(cost, "8");
        is(lifetime, "30 days");
        value("SELECT cache_upsert($A, 'story_foundation', 'k', '1', ttl => '90 minutes', token_cost => 2.5)");
        is(cost, "2.5");
        is(lifetime, "01:30:00");
        value("SELECT cache_upsert($A, 'of no policy', 'k', '1')");
        is("SELECT expires_at - created_at FROM cache_get($A, 'of no policy', 'k')", "7 days");
    }

    #[pg_test]
    fn a_policy_without_ttl_is_for_ever() {
        Spi::run("UPDATE cache_content_policies SET ttl = NULL WHERE content_type = 'tone'").unwrap();
        value("SELECT cache_upsert($A, 'tone', 'k', '1')");
        is("SELECT expires_at FROM cache_get($A, 'tone', 'k')", "infinity");
    }

    #[pg_test]
    fn a_new_version_replaces_every_value_and_keeps_id_and_counts() {
        let first = value("SELECT cache_upsert($A, 't', 'k', '1', metadata => '{\"g\": 1}', priority_tier => 1)");
        Spi::run("UPDATE infinite_pages_cache_partitioned SET hit_count = 7, token_cost_saved = 21").unwrap();
        let second = value("SELECT cache_upsert($A, 't', 'k', '2')");
        assert!(first.is_some());
        assert_eq!(first, second);
        is("SELECT content FROM cache_get($A, 't', 'k')", "2");
        is("SELECT metadata FROM cache_get($A, 't', 'k')", "{}");
        is("SELECT priority_tier FROM cache_get($A, 't', 'k')", "3");
        is("SELECT hit_count || ', ' || token_cost_saved FROM infinite_pages_cache_partitioned", "7, 21");
    }

    #[pg_test]
    fn a_batch_stores_its_entries_in_order_and_the_last_of_a_key_counts() {
        let entry = |key: &str, content: &str| {
            format!(r#"{{"user_id":"{ALICE}","content_type":"t","cache_key":"{key}","content":{content}}}"#)
        };
        let batch = format!("[{},{},{}]", entry("a", "1"), entry("b", "2"), entry("a", "3"));
        is(&format!("SELECT cardinality(cache_upsert_many('{batch}'))"), "3");
        is("SELECT cache_lookup($A, 't', 'a')", "3");
        is("SELECT cache_lookup($A, 't', 'b')", "2");
        is("SELECT count(*) FROM infinite_pages_cache_partitioned", "2");
        is(&format!("SELECT ids[1] = ids[3] AND ids[1] <> ids[2] FROM cache_upsert_many('{batch}') ids"), "true");
        is("SELECT cache_upsert_many('[]')", "{}");
    }

    #[pg_test]
    fn a_large_batch_is_stored_whole() {
        let batch = "SELECT jsonb_agg(jsonb_build_object('user_id', $A, 'content_type', 't', 'cache_key', 'k' || n, \
                     'content', n)) FROM generate_series(1, 1000) n";
        is(&format!("SELECT cardinality(cache_upsert_many(({batch})))"), "1000");
        is("SELECT sum(content::int) FROM cache_lookup_many($A, 't', ARRAY['k1', 'k500', 'k1000'])", "1501");
    }

    #[pg_test]
    fn invalidation_removes_what_it_names_and_counts_it() {
        for (key, arguments) in [
            ("a", "metadata => '{\"genre\": \"noir\", \"year\": 1940}'"),
            ("b", "foundation_dependency => 'f1'"),
            ("c", "foundation_dependency => 'f2'"),
            ("back\\slash", "metadata => '{}'"),
        ] {
            value(&format!("SELECT cache_upsert($A, 't', '{key}', '1', {arguments})"));
        }
        is("SELECT cache_invalidate_where($A, '{\"genre\": \"noir\"}')", "1");
        is_null("SELECT cache_lookup($A, 't', 'a')");
        is("SELECT cache_invalidate_dependents($A, 'f1')", "1");
        is("SELECT cache_invalidate($A, 't', 'back\\slash')", "1");
        is("SELECT cache_invalidate($A, 't', 'back\\slash')", "0");
        is("SELECT cache_key FROM cache_audit_log WHERE action = 'invalidate'", "back\\slash");
        is("SELECT cache_invalidate_content_type($A, 't')", "1");
        is("SELECT count(*) FROM infinite_pages_cache_partitioned", "0");
    }

    #[pg_test]
    fn nothing_is_left_of_a_forgotten_user() {
        value("SELECT cache_upsert($A, 't', 'k', '1')");
        is("SELECT (entries_deleted, audit_rows_deleted) FROM cache_forget_user($A)", "(1,1)");
        is("SELECT count(*) FROM cache_audit_log", "0");
    }

    /// Sets the counters to what no client can count up to.
    #[pg_test]
    fn counters_at_their_maximum_stay_there_and_are_shown() {
        use crate::statistics::content_types::slot_of;
        use crate::statistics::counters::{Count, MOST, slot};
        let slot = slot(slot_of(b"most", true).expect("the library is preloaded"));
        for count in [
            Count::Hits,
            Count::Misses,
            Count::TokensSpent,
            Count::MillionthsSpent,
            Count::TokensSaved,
            Count::MillionthsSaved,
        ] {
            for _ in 0..5 {
                slot.add(count, MOST);
            }
        }
        is_null("SELECT cache_lookup($A, 'most', 'none')");
        for pending in [false, true] {
            let of = format!("cache_statistics({pending}) WHERE content_type = 'most'");
            is(&format!("SELECT hits || ', ' || misses FROM {of}"), "9223372036854775807, 9223372036854775807");
            is(
                &format!("SELECT tokens_spent || ', ' || tokens_saved FROM {of}"),
                "9223381260226812661.775807, 9223381260226812661.775807",
            );
        }
        for _ in 0..2 {
            let of = "FROM cache_performance_metrics WHERE content_type = 'most'";
            is(&format!("SELECT lookups || ', ' || hit_rate_last_hour {of}"), "9223372036854775807, 50.00");
            value("SELECT count(*) FROM cache_alerts");
            value("SELECT cache_flush_statistics()");
        }
    }

    #[pg_test]
    fn the_user_comes_from_claims_then_from_the_setting() {
        is_null("SELECT cache_current_user_id()");
        Spi::run(&format!("SET LOCAL infinite_pages_cache.user_id = '{ALICE}'")).unwrap();
        is("SELECT cache_current_user_id()", ALICE);
        Spi::run("SET LOCAL request.jwt.claims = '{\"role\": \"authenticated\"}'").unwrap();
        is_null("SELECT cache_current_user_id()");
        Spi::run("SET LOCAL request.jwt.claims = ''").unwrap();
        is("SELECT cache_current_user_id()", ALICE);
    }
}
