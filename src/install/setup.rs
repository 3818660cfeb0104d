//! Set-up of a database: tables, indexes, policies, partitions, grants. Set-up creates what is missing and adopts what
//! exists, so it can be called again at any time.

use super::grants;
use super::upgrade::{self, renew_comments};
use crate::access::row_policies::{are_complete, ensure_policies};
use crate::access::{former_functions, owner};
use crate::error::{Refusal, Warning};
use crate::extension::{
    AUDIT_ARCHIVE, AUDIT_LOG, BY_TYPE, BY_USER, CACHE, Extension, POLICIES, RUNS, STATISTICS, locks,
};
use crate::partition::create::{Table, create, wanted_months};
use crate::partition::secure;
use crate::pg::advisory_lock;
use crate::pg::shared_memory::is_preloaded;
use crate::pg::spi::{self, Access};
use crate::pg::table_lock::{self, Against};
use crate::pg::{backend, privileges};
use crate::worker;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// The tables, and the statements that create them, in the order in which an upsert and the worker's flush lock them.
const TABLES: [(&str, &str); 7] = [
    (POLICIES, include_str!("../../sql/tables/cache_content_policies.sql")),
    (CACHE, include_str!("../../sql/tables/infinite_pages_cache_partitioned.sql")),
    (STATISTICS, include_str!("../../sql/tables/cache_statistics_hourly.sql")),
    (AUDIT_LOG, include_str!("../../sql/tables/cache_audit_log.sql")),
    (BY_TYPE, include_str!("../../sql/tables/cache_entry_summary.sql")),
    (BY_USER, include_str!("../../sql/tables/cache_user_summary.sql")),
    (RUNS, include_str!("../../sql/tables/cache_maintenance_runs.sql")),
];

#[pg_extern(sql = false)]
fn cache_setup() {
    check_encoding();
    advisory_lock::lock(locks::SETUP, 0);
    let extension = Extension::current();
    worker::announce_at_commit();
    let creating = creating_extension(&extension);
    if creating {
        grants::reset_members(&extension);
        // A restore, which sets row_security off, creates the tables and the grants itself after this statement.
        if !backend::applies_row_security() {
            former_functions::make(&extension);
            return;
        }
    }
    if backend::is_in_extension_script() && !creating {
        grants::reset_new_members(&extension);
        grants::correct_first_privileges(&extension);
    }
    // As after CREATE EXTENSION. Tables then are no members of the extension, so that a dump treats them as the user's own and
    // DROP EXTENSION leaves them. Grants do not go to pg_init_privs, so that a dump has them and DROP ROLE finds them; from
    // pg_init_privs a dump would revoke them, by OID, from a role that is gone.
    backend::outside_extension_script(|| set_up(&extension));
    if creating && !is_preloaded() {
        say_what_is_missing();
    }
}

fn set_up(extension: &Extension) {
    if extension.find_table(CACHE).is_none() {
        tell_of_another_cache(extension);
    }
    let templates = TABLES.map(|(name, sql)| {
        extension.find_table(name).map(|table| {
            check_adoptable(extension, name, table);
            create_template(extension, name, sql)
        })
    });
    if let Some(archive) = extension.find_table(AUDIT_ARCHIVE) {
        check_origin(extension, AUDIT_ARCHIVE, archive);
    }
    lock_what_changes(extension, &templates);
    for ((name, sql), template) in TABLES.into_iter().zip(templates) {
        match template {
            None => create_table(extension, name, sql),
            Some(template) => adopt_table(extension, name, template),
        }
    }
    if let Some(archive) = extension.find_table(AUDIT_ARCHIVE) {
        check_origin(extension, AUDIT_ARCHIVE, archive);
        add_missing_columns(extension, AUDIT_ARCHIVE, extension.table(AUDIT_LOG));
        renew_comments(extension, AUDIT_ARCHIVE, archive, extension.table(AUDIT_LOG));
    }
    for (name, _) in TABLES {
        ensure_policies(extension, name);
    }
    for table in [Table::Cache, Table::AuditLog] {
        for month in wanted_months() {
            create(extension, table, month);
        }
    }
    secure::secure_all(extension, true, || ());
    former_functions::hand_over(extension);
    grants::grant_to_known_roles(extension);
    grants::renew_members(extension);
}

/// Warns that without shared memory the cache works, but does not count, and has no worker.
fn say_what_is_missing() {
    Warning::new(PgSqlErrorCode::ERRCODE_WARNING, "infinite_pages_cache is not preloaded")
        .detail("Lookups are not counted, and no worker maintains the cache.")
        .hint("Set shared_preload_libraries = 'infinite_pages_cache' and restart the server.")
        .send();
}

/// Warns of a cache in another schema, which stays there unused: somebody may have dropped the extension, and created it again
/// without its SCHEMA. Considers only a table that could be adopted, so that no role can plant one to be warned of.
fn tell_of_another_cache(extension: &Extension) {
    let schemas = spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner \
         WHERE c.relname = $1::name AND c.relkind = 'p' AND n.oid <> $2 \
           AND (r.rolsuper OR r.rolname = current_user \
                OR r.oid = (SELECT datdba FROM pg_database WHERE datname = current_database())) \
           AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped \
                  AND a.attname IN ('user_id', 'content_type', 'cache_key', 'content', 'created_at', 'expires_at')) = 6 \
         ORDER BY 1",
        &[CACHE.into(), extension.namespace.into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a name")),
    );
    let Some(first) = schemas.first() else { return };
    Warning::new(PgSqlErrorCode::ERRCODE_WARNING, "this database already has a cache in another schema")
        .detail(format!(
            "The other cache is in schema {}, and the new, empty one is in {}.",
            schemas.join(", "),
            extension.schema
        ))
        .hint(format!(
            "To use the other cache: DROP EXTENSION infinite_pages_cache CASCADE; \
             CREATE EXTENSION infinite_pages_cache SCHEMA {first}; then drop the empty tables."
        ))
        .send();
}

/// # Errors
/// 0A000 unless the encoding of the database is UTF8, that of JSON, because in another one the same request would have another
/// key.
fn check_encoding() {
    let (encoding, name) = backend::encoding();
    if encoding != pg_sys::pg_enc::PG_UTF8 {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "infinite_pages_cache needs a database whose encoding is UTF8",
        )
        .detail(format!("The encoding of this one is {name}."))
        .hint("Create a database with ENCODING 'UTF8' TEMPLATE template0.")
        .raise();
    }
}

/// Whether CREATE EXTENSION runs. The server does not tell it from ALTER EXTENSION UPDATE, in which the extension's objects are
/// older than the transaction, and may have privileges from an operator. Looks at a cast, because no statement alters a cast,
/// and every version has this one.
fn creating_extension(extension: &Extension) -> bool {
    if !backend::is_in_extension_script() {
        return false;
    }
    let transaction = spi::run(
        Access::ReadLatest,
        "SELECT c.xmin::text::bigint FROM pg_cast c JOIN pg_type t ON t.oid = c.casttarget \
         WHERE t.typnamespace = $1 AND t.typname = 'cache_ttl' AND c.castsource = 'interval'::regtype",
        &[extension.namespace.into()],
        |rows| rows.get::<i64>(0, 1).expect("a transaction id"),
    );
    let transaction = pg_sys::TransactionId::from(u32::try_from(transaction).expect("32 bits"));
    backend::is_own_transaction(transaction)
}

fn create_table(extension: &Extension, name: &str, sql: &str) {
    spi::execute(&sql.replace("@extschema@", &extension.schema));
    secure::revoke(extension.table(name), "ALL");
    secure_sequences(extension, name);
    if name == CACHE && has_lz4() {
        spi::execute(&format!("ALTER TABLE {}.{CACHE} ALTER COLUMN content SET COMPRESSION lz4", extension.schema));
    }
}

/// Revokes what default privileges have granted on a table's sequences, because a sequence tells how many rows there are.
fn secure_sequences(extension: &Extension, table: &str) {
    let sequences = spi::run(
        Access::ReadLatest,
        "SELECT d.objid FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' \
         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1",
        &[extension.table(table).into()],
        |rows| rows.map(|rows, row| rows.get::<pg_sys::Oid>(row, 1).expect("an OID")),
    );
    for sequence in sequences {
        secure::revoke(sequence, "ALL");
    }
}

/// Whether the server can compress with lz4, which reads back several times faster than pglz.
fn has_lz4() -> bool {
    let sql = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'";
    spi::run(Access::ReadLatest, sql, &[], |rows| rows.count() > 0 && rows.get(0, 1).unwrap_or(false))
}

/// # Errors
/// 42501 if the table belongs to a role that is neither the caller, nor a superuser, nor the owner of the database, because any
/// role that may create tables could have planted it; and unless the caller has its owner's rights. 55000 if it is not
/// partitioned as it must be.
fn check_adoptable(extension: &Extension, name: &str, table: pg_sys::Oid) {
    check_origin(extension, name, table);
    owner::must_own(extension, name, "Set-up changes tables.", "Run it as the owner, or as a superuser.");
    let parent = TABLES.iter().find(|(parent, _)| *parent == name).map(|(_, sql)| sql.contains("PARTITION BY RANGE"));
    if parent == Some(true) {
        check_partitioning(extension, name, table);
    }
}

/// Makes a template of a table, to compare the table with, by the statements that would create the table.
fn create_template(extension: &Extension, name: &str, sql: &str) -> pg_sys::Oid {
    let template = format!("{name}_template");
    spi::execute(&sql.replace("@extschema@", &extension.schema).replace(name, &template));
    extension.table(&template)
}

/// Locks each table that is going to change, as strongly as its changes need, before the first change. A lock that became
/// stronger later, or another order of the tables, could deadlock with sessions that use the cache.
fn lock_what_changes(extension: &Extension, templates: &[Option<pg_sys::Oid>; TABLES.len()]) {
    let templates = TABLES.iter().zip(templates).map(|((name, _), template)| (*name, *template));
    let archive = extension.find_table(AUDIT_LOG).map(|log| (AUDIT_ARCHIVE, Some(log)));
    for (name, template) in templates.chain(archive) {
        if let (Some(table), Some(template)) = (extension.find_table(name), template)
            && let Some(whom) = lock_needed(extension, name, table, template)
        {
            table_lock::lock_against(table, whom);
        }
    }
}

/// Returns the strongest lock that the changes of a table need; `None` if it lacks nothing.
fn lock_needed(extension: &Extension, name: &str, table: pg_sys::Oid, template: pg_sys::Oid) -> Option<Against> {
    let is_archive = name == AUDIT_ARCHIVE;
    let is_altered = !missing_columns(template, table).is_empty()
        || grants::changes_policy(extension, name)
        || !is_archive && (upgrade::locks_out_readers(name, table, template) || !are_complete(extension, name));
    let own = if is_altered {
        Some(Against::Everybody)
    } else {
        (!is_archive && !missing_indexes(template, table).is_empty()).then_some(Against::Writers)
    };
    own.max(secure::lock_needed(extension, name))
}

/// Adopts a table that exists: adds the columns and indexes that it lacks.
fn adopt_table(extension: &Extension, name: &str, template: pg_sys::Oid) {
    let table = extension.table(name);
    // Checked again, because another table may have taken its name while set-up waited for locks.
    check_adoptable(extension, name, table);
    let indexes = missing_indexes(template, table);
    add_missing_columns(extension, name, template);
    upgrade::upgrade(extension, name, table, template);
    spi::execute(&format!("DROP TABLE {}.{name}_template", extension.schema));
    for index in indexes {
        spi::execute(&format!("CREATE INDEX ON {}.{name} {index}", extension.schema));
    }
    secure_sequences(extension, name);
    // Row security does not restrict TRUNCATE, and a foreign key or a trigger reveals other users' rows.
    secure::revoke(table, "TRUNCATE, REFERENCES, TRIGGER");
}

/// Adds to a table the columns of its template that it lacks. Existing rows get the default; a column without a default may
/// be NULL.
fn add_missing_columns(extension: &Extension, name: &str, template: pg_sys::Oid) {
    for column in missing_columns(template, extension.table(name)) {
        spi::execute(&format!("ALTER TABLE {}.{name} ADD COLUMN {column}", extension.schema));
    }
}

/// Returns the columns of the template that a table lacks, each as ADD COLUMN wants it.
fn missing_columns(template: pg_sys::Oid, table: pg_sys::Oid) -> Vec<String> {
    spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(t.attname) || ' ' || format_type(t.atttypid, t.atttypmod) \
             || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) \
                         || CASE WHEN t.attnotnull THEN ' NOT NULL' ELSE '' END, '') \
         FROM pg_attribute t LEFT JOIN pg_attrdef d ON d.adrelid = t.attrelid AND d.adnum = t.attnum \
         WHERE t.attrelid = $1 AND t.attnum > 0 AND NOT t.attisdropped \
           AND NOT EXISTS (SELECT 1 FROM pg_attribute a \
                           WHERE a.attrelid = $2 AND a.attname = t.attname AND NOT a.attisdropped) \
         ORDER BY t.attnum",
        &[template.into(), table.into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a column")),
    )
}

/// Returns the indexes of the template that a table lacks, without unique ones, each as the text from USING on. An index with
/// further columns or parameters serves as well. An index on a partitioned table covers all its partitions.
fn missing_indexes(template: pg_sys::Oid, table: pg_sys::Oid) -> Vec<String> {
    spi::run(
        Access::ReadLatest,
        "SELECT wanted.definition \
         FROM (SELECT substring(pg_get_indexdef(indexrelid) FROM ' (USING .*)') AS definition \
               FROM pg_index WHERE indrelid = $1 AND NOT indisunique) wanted \
         WHERE NOT EXISTS ( \
             SELECT FROM pg_index x, substring(pg_get_indexdef(x.indexrelid) FROM ' (USING .*)') AS definition \
             WHERE x.indrelid = $2 AND x.indisvalid AND x.indpred IS NULL \
               AND (definition = wanted.definition OR starts_with(definition, wanted.definition || ' ') \
                    OR starts_with(definition, rtrim(wanted.definition, ')') || ','))) \
         ORDER BY 1",
        &[template.into(), table.into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a definition")),
    )
}

fn check_origin(extension: &Extension, name: &str, table: pg_sys::Oid) {
    let (owner, trusted) = spi::run(
        Access::ReadLatest,
        "SELECT r.rolname::text, r.rolsuper OR r.rolname = current_user \
             OR r.oid = (SELECT datdba FROM pg_database WHERE datname = current_database()) \
         FROM pg_roles r WHERE r.oid = $1",
        &[privileges::owner_of(table).into()],
        |rows| (rows.get::<String>(0, 1).unwrap_or_default(), rows.get::<bool>(0, 2).unwrap_or(false)),
    );
    if !trusted {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("table {}.{name} cannot be adopted because of its owner", extension.schema),
        )
        .detail(format!("It belongs to role \"{owner}\", which could change it unnoticed."))
        .hint("Drop or rename it, or make it yours with ALTER TABLE … OWNER TO.")
        .raise();
    }
}

fn check_partitioning(extension: &Extension, name: &str, table: pg_sys::Oid) {
    let key =
        spi::run(Access::ReadLatest, "SELECT pg_get_partkeydef($1)", &[table.into()], |rows| rows.get::<String>(0, 1));
    let wanted = if name == CACHE { "RANGE (created_at)" } else { "RANGE (\"timestamp\")" };
    // The setting quote_all_identifiers quotes every name.
    let plain = |key: &str| key.replace('"', "");
    if key.as_deref().map(plain) != Some(plain(wanted)) {
        let found = key.map_or_else(|| "not partitioned".to_string(), |key| format!("partitioned by {key}"));
        Refusal::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {}.{name} cannot be adopted because of its partitioning", extension.schema),
        )
        .detail(format!("It must be partitioned by {wanted}; it is {found}."))
        .hint("Rename it, run cache_setup() again, and copy its rows.")
        .raise();
    }
}
