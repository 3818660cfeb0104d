//! Functions that show the leases and pending invalidations in shared memory.

use crate::access::row_security::Visible;
use crate::access::tenant;
use crate::extension::{CACHE, Extension};
use crate::lease;
use crate::pg::srf::{Call, Stored, set_returning};
use crate::pg::{datetime, privileges, spi};
use pgrx::Uuid;
use pgrx::datum::DatumWithOid;

set_returning!(infinite_pages_cache_leases => leases());

/// Returns the leases of the users whose entries the caller may read. A caller that may not read the table gets none, because
/// its claims prove nothing.
fn leases(call: Call) -> Stored {
    let seen = Seen::by_caller();
    let leases = match &seen {
        Seen::All => lease::all(None),
        Seen::Own(Some(user)) => lease::all(Some(user)),
        Seen::Own(None) => Vec::new(),
    };
    call.values(|deliver| {
        for lease in &leases {
            deliver([
                spi::uuid(&lease.user_id),
                String::from_utf8_lossy(&lease.content_type).into_owned().into(),
                spi::uuid(&lease.digest),
                lease.state.into(),
                spi::timestamptz(lease.granted_at),
                datetime::interval_of(lease.ends_in).into(),
                lease.storing_pid.into(),
                i32::try_from(lease.waiters).unwrap_or(i32::MAX).into(),
            ]);
        }
    })
}

set_returning!(infinite_pages_cache_pending_invalidations => pending_invalidations());

/// Returns the pending invalidations. The user is NULL unless the caller may read the user's entries, as for a monitor.
fn pending_invalidations(call: Call) -> Stored {
    let seen = Seen::by_caller();
    let pending = lease::pending();
    call.values(|deliver| {
        for invalidation in &pending {
            let user = invalidation.user_id.as_ref().filter(|user| seen.includes(user));
            deliver([
                invalidation.pid.into(),
                user.map_or_else(DatumWithOid::null::<Uuid>, spi::uuid),
                invalidation.subject.into(),
                datetime::interval_of(invalidation.pending_for).into(),
            ]);
        }
    })
}

/// The users whose entries the caller may read.
enum Seen {
    All,
    Own(Option<Uuid>),
}

impl Seen {
    fn by_caller() -> Self {
        let extension = Extension::current();
        match extension.find_table(CACHE).filter(|table| privileges::may_read(*table)) {
            None => Self::Own(None),
            Some(table) if Visible::to_current_user(&extension, table) == Visible::All => Self::All,
            Some(_) => Self::Own(tenant::cache_current_user_id()),
        }
    }

    fn includes(&self, user: &Uuid) -> bool {
        match self {
            Self::All => true,
            Self::Own(own) => own.as_ref() == Some(user),
        }
    }
}
