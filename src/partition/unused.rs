//! Recognizes months that are new and still empty, so that they are not dropped before their maker fills them.

use crate::pg::spi::{self, Access};
use pgrx::pg_sys;
use std::time::{Duration, SystemTime};

/// How long a month that never held a row is kept for its maker.
const YOUNG: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a partition has no row, not even a dead one, and is less than a day old. PostgreSQL does not record when a table
/// was made, but an empty file has not changed since. A file that cannot be read counts as new.
pub fn is_new_and_unused(partition: pg_sys::Oid) -> bool {
    let files = spi::run(
        Access::ReadLatest,
        "SELECT pg_relation_filepath(relid) FROM pg_partition_tree($1::oid::regclass) WHERE isleaf",
        &[partition.into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1)),
    );
    let files: Vec<File> = files.into_iter().flatten().map(|path| File::look_at(&path)).collect();
    files.iter().all(|file| file.is_empty) && files.iter().any(|file| file.is_young)
}

struct File {
    is_empty: bool,
    is_young: bool,
}

impl File {
    /// Reads a file's size and age. Its path is relative to the data directory, in which every server process works.
    fn look_at(path: &str) -> Self {
        let Ok(metadata) = std::fs::metadata(path) else { return Self { is_empty: true, is_young: true } };
        Self { is_empty: metadata.len() == 0, is_young: metadata.modified().map_or(true, is_young) }
    }
}

/// Whether a moment is less than a day from now, before or after, because the clock may have been set back since.
fn is_young(moment: SystemTime) -> bool {
    let now = SystemTime::now();
    let distance = now.duration_since(moment).unwrap_or_else(|later| later.duration());
    distance < YOUNG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_young_for_a_day_in_either_direction() {
        let now = SystemTime::now();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert!(is_young(now) && is_young(now - hours(23)) && is_young(now + hours(23)));
        assert!(!is_young(now - hours(25)) && !is_young(now + hours(25)));
    }

    #[test]
    fn a_file_that_cannot_be_read_counts_as_new() {
        let file = File::look_at("there/is/no/such/file");
        assert!(file.is_empty && file.is_young);
    }
}
