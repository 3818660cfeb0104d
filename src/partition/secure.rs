//! Secures partitions: gives each what it does not inherit, which is the parent's owner, row security without a policy, no
//! grants, and the entry index. A tenant then reaches its rows through the parent only.

use super::catalog::{ENTRY_INDEXES, partitions_of};
use crate::access::owner;
use crate::error::{Refusal, shown};
use crate::extension::{AUDIT_ARCHIVE, AUDIT_LOG, CACHE, Extension};
use crate::pg::privileges;
use crate::pg::relation::{qualified_name, while_it_stays};
use crate::pg::spi::{self, Access};
use crate::pg::table_lock::Against;
use pgrx::{PgSqlErrorCode, pg_sys};

/// Secures every partition, and what is below it, because one made by hand may lack any of this. Creates entry indexes only
/// if `indexes`. Calls `after` for each that lacked something, and returns how many did.
pub fn secure_all(extension: &Extension, indexes: bool, mut after: impl FnMut()) -> i64 {
    let mut secured = 0;
    for table in [CACHE, AUDIT_LOG, AUDIT_ARCHIVE] {
        for (partition, is_month) in partitions_to_secure(extension, table) {
            // What is below a month gets its index from the month. A DEFAULT partition gets none, because it may hold a key
            // of several months.
            if secure(extension, table, partition, indexes && is_month) {
                secured += 1;
                after();
            }
        }
    }
    secured
}

/// Returns the strongest lock that [`secure_all`] needs on a partition of a table. A caller that takes it on the table keeps out
/// every session that would lock several partitions in another order.
pub fn lock_needed(extension: &Extension, table: &str) -> Option<Against> {
    let of_partition = |(partition, is_month)| {
        let lacks = lacks(extension, table, partition, is_month)?;
        if lacks.owner.is_some() || lacks.row_security {
            Some(Against::Everybody)
        } else {
            lacks.index.then_some(Against::Writers)
        }
    };
    partitions_to_secure(extension, table).into_iter().filter_map(of_partition).max()
}

/// Returns the partitions of a table, with what is below them, and whether each is a month.
fn partitions_to_secure(extension: &Extension, table: &str) -> Vec<(pg_sys::Oid, bool)> {
    let parent = extension
        .find_table(table)
        .filter(|parent| table != AUDIT_ARCHIVE || owner::is_archive_of_log(extension, *parent));
    let months: Vec<_> = parent.map(partitions_of).unwrap_or_default().iter().map(|month| month.oid).collect();
    let all = parent.map(all_below).unwrap_or_default();
    all.into_iter().map(|partition| (partition, months.contains(&partition))).collect()
}

/// Returns the partitions of a table, DEFAULT ones too, and theirs.
fn all_below(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    const ALL_BELOW: &str = "\
        WITH RECURSIVE below (relation) AS ( \
            SELECT inhrelid FROM pg_inherits WHERE inhparent = $1 \
            UNION ALL SELECT i.inhrelid FROM below JOIN pg_inherits i ON i.inhparent = relation) \
        SELECT relation FROM below JOIN pg_class c ON c.oid = relation WHERE c.relkind IN ('r', 'p')";
    spi::run(Access::ReadLatest, ALL_BELOW, &[table.into()], |rows| {
        rows.map(|rows, row| rows.get(row, 1).expect("relation is NOT NULL"))
    })
}

/// What a partition lacks.
struct Lacks {
    /// The parent's owner, quoted, if the partition has another one.
    owner: Option<String>,
    row_security: bool,
    index: bool,
}

/// Returns what a partition lacks; `None` if it is gone.
fn lacks(extension: &Extension, parent: &str, partition: pg_sys::Oid, index: bool) -> Option<Lacks> {
    let owner = privileges::owner_of(extension.table(parent));
    while_it_stays(partition, |_| {
        let index = index && parent == CACHE && !has_entry_index(partition);
        spi::run(
            Access::ReadLatest,
            "SELECT CASE WHEN c.relowner <> $2 THEN quote_ident(pg_get_userbyid($2)) END, NOT c.relrowsecurity \
             FROM pg_class c WHERE c.oid = $1",
            &[partition.into(), owner.into()],
            |rows| Lacks { owner: rows.get(0, 1), row_security: rows.get(0, 2).unwrap_or(true), index },
        )
    })
}

/// Secures a partition, the entry index only if `index`; returns whether it lacked anything. Runs no statement for what it
/// has, because each would lock it.
pub fn secure(extension: &Extension, parent: &str, partition: pg_sys::Oid, index: bool) -> bool {
    let Some(lacks) = lacks(extension, parent, partition, index) else {
        return false; // another session has dropped it meanwhile
    };
    let name = qualified_name(partition);
    // The index first, because it lets readers go on, and the other statements do not.
    if lacks.index {
        add_entry_index(extension, partition, &name);
    }
    if let Some(owner) = &lacks.owner {
        spi::execute(&format!("ALTER TABLE {name} OWNER TO {owner}"));
    }
    if lacks.row_security {
        spi::execute(&format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"));
    }
    let granted = revoke(partition, "ALL");
    granted || lacks.owner.is_some() || lacks.row_security || lacks.index
}

fn has_entry_index(partition: pg_sys::Oid) -> bool {
    let sql = format!("SELECT EXISTS (SELECT FROM ({ENTRY_INDEXES}) i WHERE i.indrelid = $1)");
    spi::run(Access::ReadLatest, &sql, &[partition.into()], |rows| rows.get::<bool>(0, 1).unwrap_or(false))
}

/// Creates the entry index. The server chooses its name, because an invalid index of an interrupted statement may have any.
fn add_entry_index(extension: &Extension, partition: pg_sys::Oid, name: &str) {
    // CREATE INDEX lets another session create one at the same time; this lock does not.
    spi::execute(&format!("LOCK TABLE ONLY {name} IN SHARE ROW EXCLUSIVE MODE"));
    if !has_entry_index(partition) {
        check_unique(name);
        let digest = format!("{}.cache_entry_digest(content_type, cache_key)", extension.schema);
        spi::execute(&format!("CREATE UNIQUE INDEX ON {name} (user_id, {digest})"));
    }
}

/// # Errors
/// 23505 if a partition that was made by hand holds a key twice.
fn check_unique(partition: &str) {
    let sql = format!(
        "SELECT user_id::text, content_type::text, cache_key::text, count(*) FROM {partition} \
         GROUP BY user_id, content_type, cache_key HAVING count(*) > 1 LIMIT 1"
    );
    spi::run(Access::ReadLatest, &sql, &[], |rows| {
        if rows.count() > 0 {
            let part = |column| rows.get::<String>(0, column).unwrap_or_default();
            Refusal::new(
                PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
                format!("{partition} holds an entry more than once"),
            )
            .detail(format!(
                "User {}, content type {}, key {} has {} rows.",
                part(1),
                shown(&part(2)),
                shown(&part(3)),
                rows.get::<i64>(0, 4).unwrap_or_default()
            ))
            .hint("Delete all but the newest row of each user_id, content_type and cache_key, and try again.")
            .raise();
        }
    });
}

/// Revokes privileges on a table or view from every role but its owner, because default privileges may have granted some.
/// Returns whether any role had one.
pub fn revoke(relation: pg_sys::Oid, privileges: &str) -> bool {
    let grantees = spi::run(
        Access::ReadLatest,
        "SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END \
         FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = $1 AND a.grantee <> c.relowner",
        &[relation.into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a name")),
    );
    let name = qualified_name(relation);
    for grantee in &grantees {
        spi::execute(&format!("REVOKE {privileges} ON {name} FROM {grantee}"));
    }
    !grantees.is_empty()
}
