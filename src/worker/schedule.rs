//! The schedule: when a tick or a step may come again, and when a run is overdue. Moments are microseconds since 2000-01-01
//! UTC. No PostgreSQL types, so that tests need no server.

pub const MILLISECOND: i64 = 1_000;
pub const SECOND: i64 = 1_000 * MILLISECOND;
pub const MINUTE: i64 = 60 * SECOND;

/// Longest wait after failures.
pub const LONGEST_BACKOFF: i64 = 10 * MINUTE;
/// Longest rest that a step may ask for.
const LONGEST_REST: i64 = 60 * MINUTE;
/// A step that reads whole tables rests this many times as long as it took.
const REST_FACTOR: i64 = 100;

/// Whether a moment has come, which was set at most `longest` ahead. A moment further ahead counts as come, because it was set
/// before the clock was put back.
pub fn has_come(moment: i64, now: i64, longest: i64) -> bool {
    moment <= now || moment > now.saturating_add(longest)
}

/// Whether the moment has come before which a step may not run.
pub fn may_run(not_before: i64, now: i64) -> bool {
    has_come(not_before, now, LONGEST_REST.max(2 * LONGEST_BACKOFF))
}

/// Returns the wait after a number of failures in a row: twice the naptime, doubled by each further failure, up to
/// [`LONGEST_BACKOFF`]. `dice`, from 0 to 1, adds up to a tenth, so that what failed together is not tried again together.
pub fn backoff(naptime: i64, failures: u32, dice: f64) -> i64 {
    let doubled = naptime.max(MILLISECOND).saturating_mul(1 << failures.min(30));
    let wait = doubled.min(LONGEST_BACKOFF);
    wait + (wait as f64 * 0.1 * dice.clamp(0.0, 1.0)) as i64
}

/// Returns the shortest rest of a step that failed after `took`: a step that hangs must not take up a worker again as soon as
/// it has been cancelled.
pub fn rest_of_failed(took: i64) -> i64 {
    if took < MINUTE { 0 } else { LONGEST_BACKOFF }
}

/// Whether a run is overdue: since the last run the wait for the next tick, two more naptimes and the longest transaction have
/// passed. That wait counts up to the longest after a failure, because ticks may come and find that they cannot run.
pub fn is_overdue(last_run: i64, next_tick: i64, now: i64, naptime: i64, longest: i64) -> bool {
    let wait = (next_tick.saturating_sub(last_run)).min(LONGEST_BACKOFF + LONGEST_BACKOFF / 10).max(naptime);
    now > last_run.saturating_add(wait).saturating_add(2 * naptime).saturating_add(longest)
}

/// Returns the rest of a step that reads whole tables and took `took`.
pub fn rest(took: i64) -> i64 {
    took.max(0).saturating_mul(REST_FACTOR).min(LONGEST_REST)
}

/// Returns a number from 0 to 1 that differs from one moment to the next.
pub fn dice(now: i64) -> f64 {
    (now.rem_euclid(1009)) as f64 / 1008.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_up_to_ten_minutes() {
        let naptime = 200 * MILLISECOND;
        let waits: Vec<i64> = (1..=4).map(|failures| backoff(naptime, failures, 0.0) / MILLISECOND).collect();
        assert_eq!(waits, [400, 800, 1600, 3200]);
        assert_eq!(backoff(30 * SECOND, 1, 0.0), MINUTE);
        assert_eq!(backoff(30 * SECOND, 5, 0.0), LONGEST_BACKOFF);
        assert_eq!(backoff(30 * SECOND, u32::MAX, 1.0), 11 * MINUTE);
        // The naptime itself may be longer than that.
        assert_eq!(backoff(24 * 60 * MINUTE, 1, 0.0), LONGEST_BACKOFF);
    }

    #[test]
    fn a_step_rests_a_hundred_times_as_long_as_it_took() {
        assert_eq!(rest(16 * SECOND / 10), 160 * SECOND);
        assert_eq!(rest(0), 0);
        assert_eq!(rest(-5), 0);
        assert_eq!(rest(i64::MAX), LONGEST_REST);
    }

    #[test]
    fn a_step_that_fails_after_a_minute_rests_for_ten() {
        assert_eq!(rest_of_failed(-SECOND), 0);
        assert_eq!(rest_of_failed(MINUTE - 1), 0);
        assert_eq!(rest_of_failed(MINUTE), LONGEST_BACKOFF);
    }

    #[test]
    fn a_run_is_overdue_after_three_naptimes_and_a_transaction() {
        let is_overdue = |next_tick, now| is_overdue(0, next_tick, now, 30 * SECOND, MINUTE);
        for next_tick in [0, 30 * SECOND] {
            assert!(!is_overdue(next_tick, 150 * SECOND) && is_overdue(next_tick, 150 * SECOND + 1));
        }
        // After a failure the wait is longer; ticks that could not run do not count.
        assert!(!is_overdue(10 * MINUTE, 12 * MINUTE) && is_overdue(10 * MINUTE, 12 * MINUTE + 1));
        assert!(is_overdue(60 * MINUTE, 13 * MINUTE + 1));
        assert!(!super::is_overdue(i64::MAX, 0, i64::MAX, SECOND, MINUTE));
    }

    proptest! {
        #[test]
        fn a_wait_never_shrinks_and_is_at_most_a_tenth_longer(naptime in 1..86_400_000i64, failures in 1..100u32, dice in 0.0..1.0f64) {
            let naptime = naptime * MILLISECOND;
            let least = backoff(naptime, failures, 0.0);
            let wait = backoff(naptime, failures, dice);
            prop_assert!(least <= wait && wait <= least + least / 10 + 1);
            prop_assert!(backoff(naptime, failures + 1, 0.0) >= least);
            prop_assert!(least >= naptime.min(LONGEST_BACKOFF));
        }

        /// Whatever happens to the clock, nothing waits longer than it might have without that.
        #[test]
        fn nothing_waits_for_a_clock_that_was_put_back(now in 0..1_000_000_000i64, failures in 1..40u32, back in 0..i64::from(i32::MAX)) {
            let (now, back) = (now * SECOND, back * SECOND);
            let not_before = now + backoff(30 * SECOND, failures, 1.0).max(rest(i64::MAX));
            let put_back = now - back;
            let ahead = not_before - put_back;
            prop_assert_eq!(may_run(not_before, put_back), ahead > LONGEST_REST || ahead <= 0);
        }

        #[test]
        fn dice_are_between_0_and_1(now in any::<i64>()) {
            prop_assert!((0.0..=1.0).contains(&dice(now)));
        }
    }
}
