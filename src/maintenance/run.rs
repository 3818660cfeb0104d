//! A run of maintenance: its steps, each on its own, and their log.

use super::cleanup::{delete_expired, milliseconds_since, rounded};
use super::limits::evict_over_limit;
use crate::advisory::{self, Class};
use crate::clock::{month_of, now};
use crate::home::{AUDIT_LOG, CACHE, Home, RUNS};
use crate::partition::catalog::partitions_of;
use crate::partition::create::{Table, create, wanted_months};
use crate::partition::month::Month;
use crate::partition::retire;
use crate::partition::secure::secure_all;
use crate::setting_scope::with_setting;
use crate::spi::{self, Access};
use crate::{catch, owner, settings};
use pgrx::datum::{AnyNumeric, DatumWithOid};
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// What a step did: how much of it, in words what a number does not say, and whether part of it failed.
#[derive(Default)]
struct Outcome {
    affected: i64,
    detail: Option<String>,
    failed: bool,
}

impl From<i64> for Outcome {
    fn from(affected: i64) -> Self {
        Self { affected, ..Self::default() }
    }
}

struct Step {
    name: &'static str,
    run: fn(&Home) -> Outcome,
}

/// In this order: the steps that lock rows, and at last tables, until the end of the transaction come as
/// late as can be.
const STEPS: [Step; 9] = [
    Step { name: "premake partitions", run: |home| premake(home, Table::Cache) },
    Step { name: "premake audit partitions", run: |home| premake(home, Table::AuditLog) },
    Step { name: "trim maintenance log", run: trim_log },
    Step { name: "analyze", run: analyze },
    Step { name: "enforce limits", run: |home| hurried(|deadline| evict_over_limit(home, deadline)) },
    Step { name: "delete expired entries", run: |home| hurried(|deadline| expire(home, deadline)) },
    Step { name: "secure partitions", run: |home| secure_all(home).into() },
    Step { name: "drop dead months", run: |home| outcome_of(retire::drop_dead_months(home, share_of_wait())) },
    Step { name: "trim audit log", run: trim_audit },
];

/// A quarter of the time that maintenance may hold anybody up, in milliseconds: for limits, for expiry, for
/// the lock on the cache, and for the lock on the audit log. Each holds up who waits for what the one
/// before it has locked.
fn share_of_wait() -> i32 {
    (settings::LOCK_TIMEOUT.get() / 4).max(1)
}

/// Has a step delete entries until its time is up.
fn hurried(delete: impl FnOnce(Instant) -> i64) -> Outcome {
    let deadline = Instant::now() + Duration::from_millis(share_of_wait().unsigned_abs().into());
    let affected = delete(deadline);
    let detail = (Instant::now() >= deadline).then(|| "there may be more for the next run".to_string());
    Outcome { affected, detail, failed: false }
}

/// Runs every step. One that fails is undone and reported, and the next one runs.
///
/// # Errors
/// 42501 unless the current user owns the table.
#[pg_extern(sql = false)]
fn cache_run_maintenance() -> TableIterator<
    'static,
    (
        name!(step, String),
        name!(status, String),
        name!(affected, i64),
        name!(duration_ms, AnyNumeric),
        name!(detail, Option<String>),
    ),
> {
    let home = Home::current();
    owner::check(
        &home,
        CACHE,
        "Maintenance creates and drops partitions.",
        "Run it as the owner. A service role can call cleanup_expired_cache_entries_production().",
    );
    if !advisory::try_lock(Class::Maintenance, 0) {
        let detail = Some("another run is in progress".to_string());
        return TableIterator::once(("run".into(), "skipped".into(), 0, rounded(0.0), detail));
    }
    let run_at = now();
    let rows: Vec<_> = STEPS.iter().map(|step| run_step(&home, step)).collect();
    log(&home, run_at, &rows);
    TableIterator::new(rows)
}

type Row = (String, String, i64, AnyNumeric, Option<String>);

fn run_step(home: &Home, step: &Step) -> Row {
    let started = Instant::now();
    let timeout = format!("{}ms", settings::LOCK_TIMEOUT.get());
    let (status, outcome) = match catch::attempt(|| with_setting(c"lock_timeout", &timeout, || (step.run)(home))) {
        Ok(outcome) => (if outcome.failed { "failed" } else { "ok" }, outcome),
        Err(message) => ("failed", Outcome { detail: Some(message), ..Outcome::default() }),
    };
    (step.name.into(), status.into(), outcome.affected, rounded(milliseconds_since(started)), outcome.detail)
}

/// Creates the coming partitions; trouble with one month does not keep the others from theirs.
fn premake(home: &Home, table: Table) -> Outcome {
    let mut outcome = Outcome::default();
    for month in wanted_months() {
        match catch::attempt(|| create(home, table, month).1) {
            Ok(created) => outcome.affected += i64::from(created),
            Err(message) => {
                outcome.failed = true;
                outcome.detail.get_or_insert(message);
            }
        }
    }
    outcome
}

fn expire(home: &Home, deadline: Instant) -> i64 {
    delete_expired(home, Some(deadline)).iter().map(|cleaned| cleaned.deleted).sum()
}

fn outcome_of(retired: Vec<retire::Retired>) -> Outcome {
    let affected = retired.iter().filter(|old| old.dropped).count() as i64;
    let kept: Vec<String> =
        retired.iter().filter(|old| !old.dropped).map(|old| format!("{}: {}", old.name, old.detail)).collect();
    Outcome { affected, detail: (!kept.is_empty()).then(|| kept.join("; ")), failed: false }
}

fn trim_audit(home: &Home) -> Outcome {
    let months = i64::from(settings::AUDIT_RETENTION_MONTHS.get());
    let this = month_of(now());
    let Some(oldest_kept) = this.plus(1 - months).filter(|_| months > 0).map(Month::start) else {
        return 0.into();
    };
    let old = partitions_of(home.table(AUDIT_LOG)).into_iter().filter(|partition| partition.to <= oldest_kept);
    outcome_of(retire::retire(home, Table::AuditLog, old.collect(), true, share_of_wait()))
}

fn trim_log(home: &Home) -> Outcome {
    let minutes = i64::from(settings::MAINTENANCE_LOG_RETENTION.get());
    if minutes == 0 {
        return 0.into();
    }
    let sql = format!("DELETE FROM {}.{RUNS} WHERE run_at < $1", home.schema);
    let oldest_kept = spi::timestamptz(now() - minutes * 60_000_000);
    spi::run(Access::Write, &sql, &[oldest_kept], |rows| rows.count() as i64).into()
}

/// Autovacuum never analyzes a partitioned table itself, only its partitions; the planner needs both.
/// Due when a tenth of the rows have changed since the partitions were analyzed, or when they have been
/// analyzed since and are a tenth larger or smaller than the whole was.
fn analyze(home: &Home) -> Outcome {
    let parent = home.table(CACHE);
    let due = spi::run(
        Access::ReadLatest,
        "SELECT sum(s.n_mod_since_analyze) > 50 + 0.1 * sum(s.n_live_tup) \
             OR abs(sum(greatest(c.reltuples, 0)) - greatest(p.reltuples, 0)) > 50 + 0.1 * greatest(p.reltuples, 0) \
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         JOIN pg_stat_user_tables s ON s.relid = c.oid JOIN pg_class p ON p.oid = i.inhparent \
         WHERE i.inhparent = $1 GROUP BY p.reltuples",
        &[parent.into()],
        |rows| if rows.count() > 0 { rows.get::<bool>(0, 1).unwrap_or(false) } else { false },
    );
    if !due {
        return Outcome { detail: Some("not due".into()), ..Outcome::default() };
    }
    spi::execute(&format!("ANALYZE {}.{CACHE}", home.schema));
    1.into()
}

fn log(home: &Home, run_at: i64, rows: &[Row]) {
    let runs = home.table(RUNS);
    let sql = format!(
        "INSERT INTO {}.{RUNS} (run_at, step, status, affected, duration_ms, detail, role) \
         VALUES ($1, $2, $3, $4, $5, $6, session_user)",
        home.schema
    );
    owner::as_owner_of(runs, || {
        for (step, status, affected, duration, detail) in rows {
            let args: [DatumWithOid; 6] = [
                spi::timestamptz(run_at),
                step.clone().into(),
                status.clone().into(),
                (*affected).into(),
                duration.clone().into(),
                detail.clone().into(),
            ];
            spi::run(Access::Write, &sql, &args, |_| ());
        }
    });
}
