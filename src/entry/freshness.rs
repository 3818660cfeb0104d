//! Whether an answer is fresh: live or stale, and when a live one is to be generated anew. Moments and durations are in
//! microseconds.

use crate::ttl;

/// What an answer is at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Before its expiry.
    Live,
    /// From its expiry on, for as long as its content policy lets it be served.
    Stale,
    /// After that.
    Over,
}

impl Freshness {
    pub fn of(expires_at: i64, stale_ttl: i64, now: i64) -> Self {
        if now < expires_at {
            Self::Live
        } else if now < expires_at.saturating_add(stale_ttl) {
            Self::Stale
        } else {
            Self::Over
        }
    }
}

/// Whether a live answer is generated anew before it expires, by XFetch (Vattani, Chierichetti, Lowenstein: Optimal
/// Probabilistic Cache Stampede Prevention, 2015): if `now + generation × beta × −ln(random) ≥ expires_at`. The nearer the
/// expiry, the likelier is it that one of many callers is chosen. `generation` is how long an answer takes, and `random` lies
/// above 0, up to 1. An answer that never expires is not generated anew.
pub fn is_due_early(expires_at: i64, now: i64, generation: f64, beta: f64, random: impl FnOnce() -> f64) -> bool {
    /// More than −ln of the smallest random number, 2⁻⁵³.
    const MOST: f64 = 37.0;
    let left = expires_at.saturating_sub(now) as f64;
    let scale = generation * beta;
    // Most answers are far from their expiry, and need no random number.
    expires_at != ttl::INFINITE && left <= scale * MOST && left <= scale * -random().ln()
}

/// Returns a number above 0, up to 1, that depends on every bit of the seed (splitmix64).
pub fn random(seed: u64) -> f64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    ((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_is_live_before_its_expiry_and_stale_for_stale_ttl_after_it() {
        use Freshness::{Live, Over, Stale};
        for (expires_at, stale_ttl, now, expected) in [
            (100, 0, 99, Live),
            (100, 0, 100, Over),
            (100, 50, 100, Stale),
            (100, 50, 149, Stale),
            (100, 50, 150, Over),
            (i64::MAX, 0, i64::MAX - 1, Live),
            (100, i64::MAX, 5_000_000_000, Stale),
            (i64::MIN, 0, 0, Over),
            (i64::MIN, 3_600_000_000, 0, Over),
        ] {
            assert_eq!(Freshness::of(expires_at, stale_ttl, now), expected, "{expires_at} {stale_ttl} {now}");
        }
    }

    /// Computed with 50 digits by Python's decimal.
    #[test]
    fn who_refreshes_early_is_chosen_as_the_paper_says() {
        for (left, generation, beta, random, expected) in [
            (2_000_000, 2e6, 1.0, 0.367_879_441_1, true),
            (2_000_000, 2e6, 1.0, 0.367_879_441_2, false),
            (13_815_510, 2e6, 1.0, 0.001, true),
            (13_815_511, 2e6, 1.0, 0.001, false),
            (27_631_021, 2e6, 2.0, 0.001, true),
            (27_631_022, 2e6, 2.0, 0.001, false),
            (1, 2e6, 1.0, 1.0, false),
        ] {
            let now = 700_000_000_000_000_000;
            assert_eq!(is_due_early(now + left, now, generation, beta, || random), expected, "{left} {random}");
        }
    }

    #[test]
    fn an_answer_that_never_expires_is_not_refreshed_early() {
        assert!(!is_due_early(ttl::INFINITE, ttl::INFINITE - 1, 60e6, 10.0, || 2f64.powi(-53)));
    }

    #[test]
    fn an_answer_far_from_its_expiry_needs_no_random_number() {
        assert!(!is_due_early(38_000_000, 0, 1e6, 1.0, || panic!("asked for one")));
    }

    /// The first numbers of the published splitmix64, from the seeds 0 and 1.
    #[test]
    fn random_numbers_are_those_of_splitmix64() {
        assert_eq!(random(0), ((0xe220_a839_7b1d_cdaf_u64 >> 11) + 1) as f64 / 2f64.powi(53));
        assert_eq!(random(1), ((0x910a_2dec_8902_5cc1_u64 >> 11) + 1) as f64 / 2f64.powi(53));
    }

    proptest! {
        #[test]
        fn random_numbers_lie_above_0_up_to_1(seed in any::<u64>()) {
            prop_assert!(random(seed) > 0.0 && random(seed) <= 1.0);
        }

        #[test]
        fn nobody_refreshes_early_without_a_generation_time(left in 1_i64..1_000_000_000, seed in any::<u64>()) {
            prop_assert!(!is_due_early(left, 0, 0.0, 1.0, || random(seed)));
        }
    }
}
