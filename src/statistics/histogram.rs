//! Histograms of latencies in a fixed number of buckets: four to each power of two of microseconds, up to a minute, so that the
//! middle of a bucket is within an eighth of every latency in it.

/// Buckets of a histogram. The last one also holds everything longer.
pub const BUCKETS: usize = 100;

/// Returns the bucket of a latency in microseconds.
pub fn bucket_of(microseconds: u64) -> usize {
    if microseconds < 4 {
        return microseconds as usize;
    }
    let power = microseconds.ilog2() as usize;
    let quarter = (microseconds >> (power - 2)) as usize & 3;
    (4 * (power - 1) + quarter).min(BUCKETS - 1)
}

/// Returns the least latency of a bucket, in microseconds.
fn start_of(bucket: usize) -> u64 {
    if bucket < 4 { bucket as u64 } else { (4 + bucket as u64 % 4) << (bucket / 4 - 1) }
}

/// Returns the latency in microseconds that a share of all latencies (0 to 1) does not exceed, as if they were evenly spread
/// within a bucket; `None` when nothing has been counted. Counts may be weighted, and buckets may be missing at the end.
pub fn quantile(buckets: &[f64], share: f64) -> Option<f64> {
    let total: f64 = buckets.iter().sum();
    if total <= 0.0 {
        return None;
    }
    let wanted = share * total;
    let mut below = 0.0;
    for (bucket, count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0.0) {
        if below + count >= wanted {
            let (start, end) = (start_of(bucket) as f64, start_of(bucket + 1) as f64);
            return Some(start + (end - start) * ((wanted - below) / count));
        }
        below += count;
    }
    buckets.iter().rposition(|count| *count > 0.0).map(|bucket| start_of(bucket + 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_begin_where_they_should() {
        // Worked out by hand: 4 to a power of two.
        let expected = [
            (0, 0),
            (3, 3),
            (4, 4),
            (7, 7),
            (8, 8),
            (9, 8),
            (10, 9),
            (15, 11),
            (16, 12),
            (19, 12),
            (20, 13),
            (1000, 35),
            (1024, 36),
        ];
        for (microseconds, bucket) in expected {
            assert_eq!(bucket_of(microseconds), bucket, "{microseconds}");
        }
        assert_eq!(bucket_of((1 << 26) - 1), 99);
        assert_eq!(bucket_of(u64::MAX), 99);
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[0.0; BUCKETS], 0.5), None);
    }

    proptest! {
        #[test]
        fn a_latency_lies_in_its_bucket(microseconds in 0u64..(1 << 26)) {
            let bucket = bucket_of(microseconds);
            prop_assert!(start_of(bucket) <= microseconds && microseconds < start_of(bucket + 1));
        }

        #[test]
        fn a_quantile_is_within_a_quarter_of_the_truth(
            mut latencies in proptest::collection::vec(4u64..60_000_000, 1..300),
            share in 0.01f64..1.0,
        ) {
            let mut buckets = [0.0; BUCKETS];
            for latency in &latencies {
                buckets[bucket_of(*latency)] += 1.0;
            }
            latencies.sort_unstable();
            let rank = (share * latencies.len() as f64).ceil() as usize;
            let truth = latencies[rank - 1] as f64;
            let found = quantile(&buckets, share).unwrap();
            prop_assert!(found >= truth * 0.8 && found <= truth * 1.25 + 1.0, "{} for {}", found, truth);
        }
    }
}
