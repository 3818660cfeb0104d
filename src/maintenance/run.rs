//! A run of maintenance: its steps, each on its own, and their log.

use super::cleanup::{delete_expired, milliseconds_since, rounded};
use super::limits::evict_over_limit;
use crate::advisory::{self, Class};
use crate::clock::now;
use crate::home::{AUDIT_LOG, CACHE, Home, RUNS};
use crate::partition::catalog::partitions_of;
use crate::partition::create::{Table, premake};
use crate::partition::month::Month;
use crate::partition::retire;
use crate::partition::secure::secure_all;
use crate::setting_scope::with_setting;
use crate::spi::{self, Access};
use crate::{catch, owner, settings};
use pgrx::datum::{AnyNumeric, DatumWithOid};
use pgrx::prelude::*;
use std::time::Instant;

/// What a step did: how much of it, and in words what a number does not say.
struct Outcome {
    affected: i64,
    detail: Option<String>,
}

impl From<i64> for Outcome {
    fn from(affected: i64) -> Self {
        Self { affected, detail: None }
    }
}

struct Step {
    name: &'static str,
    run: fn(&Home) -> Outcome,
}

/// In this order: a drop locks the table until the end of the transaction, so it comes last.
const STEPS: [Step; 9] = [
    Step {
        name: "secure partitions",
        run: |home| (secure_all(home, Table::Cache) + secure_all(home, Table::AuditLog)).into(),
    },
    Step { name: "premake partitions", run: |home| premake(home, Table::Cache).into() },
    Step { name: "premake audit partitions", run: |home| premake(home, Table::AuditLog).into() },
    Step {
        name: "delete expired entries",
        run: |home| delete_expired(home).iter().map(|cleaned| cleaned.deleted).sum::<i64>().into(),
    },
    Step { name: "enforce limits", run: |home| evict_over_limit(home).into() },
    Step { name: "trim maintenance log", run: trim_log },
    Step { name: "analyze", run: analyze },
    Step { name: "trim audit log", run: trim_audit },
    Step { name: "drop dead months", run: |home| outcome_of(retire::drop_dead_months(home)) },
];

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
        Ok(outcome) => ("ok", outcome),
        Err(failure) => ("failed", Outcome { affected: 0, detail: Some(failure.message) }),
    };
    (step.name.into(), status.into(), outcome.affected, rounded(milliseconds_since(started)), outcome.detail)
}

fn outcome_of(retired: Vec<retire::Retired>) -> Outcome {
    let affected = retired.iter().filter(|old| old.dropped).count() as i64;
    let kept: Vec<String> =
        retired.iter().filter(|old| !old.dropped).map(|old| format!("{}: {}", old.name, old.detail)).collect();
    Outcome { affected, detail: (!kept.is_empty()).then(|| kept.join("; ")) }
}

fn trim_audit(home: &Home) -> Outcome {
    let months = i64::from(settings::AUDIT_RETENTION_MONTHS.get());
    let this = Month::of(now()).expect("the clock shows a year with four digits");
    let Some(oldest_kept) = this.plus(1 - months).filter(|_| months > 0).map(Month::start) else {
        return 0.into();
    };
    let old = partitions_of(home.table(AUDIT_LOG)).into_iter().filter(|partition| partition.to <= oldest_kept);
    outcome_of(old.map(|partition| retire::retire(home, Table::AuditLog, &partition, true)).collect())
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
/// Due once a tenth of the rows have changed since the partitions were last analyzed, or never was.
fn analyze(home: &Home) -> Outcome {
    let parent = home.table(CACHE);
    let due = spi::run(
        Access::ReadLatest,
        "SELECT sum(s.n_mod_since_analyze) > 50 + 0.1 * sum(s.n_live_tup) \
             OR NOT EXISTS (SELECT 1 FROM pg_statistic t WHERE t.starelid = $1 AND t.stainherit) \
                AND sum(s.n_live_tup) > 0 \
         FROM pg_inherits i JOIN pg_stat_user_tables s ON s.relid = i.inhrelid WHERE i.inhparent = $1",
        &[parent.into()],
        |rows| rows.get::<bool>(0, 1).unwrap_or(false),
    );
    if !due {
        return Outcome { affected: 0, detail: Some("not due".into()) };
    }
    spi::run(Access::Write, &format!("ANALYZE {}.{CACHE}", home.schema), &[], |_| ());
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
