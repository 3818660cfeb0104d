//! What an invalidation is of, as it stands in shared memory, and which leases and fills it concerns.

use super::types::Subject;
use crate::address::{Address, digest_of};
use crate::pg::plain::plain;
use pgrx::pg_sys;

/// A user, or a digest of 128 bits.
pub type Bytes = [u8; 16];

plain! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Kind {
        Key,
        Type,
        Foundation,
        Metadata,
        User,
        TypeOfAllUsers,
        Database,
    }
}

plain! {
    /// A [`Subject`] in a database. Users are zeros where it is of all users, and values where it needs none.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Stored {
        pub database: pg_sys::Oid,
        pub kind: Kind,
        pub user: Bytes,
        /// The digest of the key, content type or foundation.
        pub value: Bytes,
    }
}

plain! {
    /// The name of a foundation, or none.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Foundation {
        pub is_named: bool,
        digest: Bytes,
    }
}

plain! {
    /// What a lease is for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Lease {
        pub database: pg_sys::Oid,
        pub user: Bytes,
        /// Of content type and key.
        pub digest: Bytes,
        pub content_type: Bytes,
        pub foundation: Foundation,
    }
}

plain! {
    /// What a fill stores, beyond what its lease is for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Filled {
        pub foundation: Foundation,
        pub has_metadata: bool,
    }
}

plain! {
    /// Which fills of a lease an invalidation concerns.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Concern {
        pub all: bool,
        /// Those that name a foundation, where the lease names none.
        pub with_foundation: bool,
        pub with_metadata: bool,
    }
}

impl Foundation {
    pub fn of(name: Option<&[u8]>) -> Self {
        // No content type is empty, so this is no digest of an entry.
        name.map_or(Self { is_named: false, digest: [0; 16] }, |name| Self {
            is_named: true,
            digest: *digest_of(b"", name),
        })
    }
}

impl Lease {
    pub fn new(database: pg_sys::Oid, address: &Address, foundation: Option<&[u8]>) -> Self {
        Self {
            database,
            user: *address.user_id,
            digest: *address.digest,
            content_type: digest_of_type(address.content_type),
            foundation: Foundation::of(foundation),
        }
    }
}

/// Returns the digest of a content type. No key is empty, so it is no digest of an entry.
fn digest_of_type(name: &[u8]) -> Bytes {
    *digest_of(name, b"")
}

impl Concern {
    pub const NONE: Self = Self { all: false, with_foundation: false, with_metadata: false };

    pub fn add(&mut self, other: Self) {
        self.all |= other.all;
        self.with_foundation |= other.with_foundation;
        self.with_metadata |= other.with_metadata;
    }

    pub fn has(self, fill: &Filled) -> bool {
        self.all || self.with_foundation && fill.foundation.is_named || self.with_metadata && fill.has_metadata
    }
}

impl Stored {
    pub fn new(database: pg_sys::Oid, subject: &Subject) -> Self {
        let (kind, user, value) = match subject {
            Subject::Key(address) => (Kind::Key, *address.user_id, *address.digest),
            Subject::Type(user, name) => (Kind::Type, **user, digest_of_type(name)),
            Subject::Foundation(user, name) => (Kind::Foundation, **user, Foundation::of(Some(name)).digest),
            Subject::Metadata(user) => (Kind::Metadata, **user, [0; 16]),
            Subject::User(user) => (Kind::User, **user, [0; 16]),
            Subject::TypeOfAllUsers(name) => (Kind::TypeOfAllUsers, [0; 16], digest_of_type(name)),
        };
        Self { database, kind, user, value }
    }

    pub fn of_user(database: pg_sys::Oid, user: Bytes) -> Self {
        Self { database, kind: Kind::User, user, value: [0; 16] }
    }

    pub fn of_database(database: pg_sys::Oid) -> Self {
        Self { database, kind: Kind::Database, user: [0; 16], value: [0; 16] }
    }

    /// Whether it is of one user only.
    pub fn is_of_one_user(&self) -> bool {
        !matches!(self.kind, Kind::TypeOfAllUsers | Kind::Database)
    }

    /// Returns which fills of a lease it concerns, now or later.
    pub fn concern(&self, lease: &Lease) -> Concern {
        let all = |all| Concern { all, ..Concern::NONE };
        if self.database != lease.database || self.is_of_one_user() && self.user != lease.user {
            return Concern::NONE;
        }
        match self.kind {
            Kind::Key => all(self.value == lease.digest),
            Kind::Type | Kind::TypeOfAllUsers => all(self.value == lease.content_type),
            Kind::User | Kind::Database => all(true),
            Kind::Metadata => Concern { with_metadata: true, ..Concern::NONE },
            Kind::Foundation if lease.foundation.is_named => all(lease.foundation.digest == self.value),
            Kind::Foundation => Concern { with_foundation: true, ..Concern::NONE },
        }
    }

    /// Whether it concerns a fill of a lease. Here the fill's foundation is known, and compared.
    pub fn concerns(&self, lease: &Lease, fill: &Filled) -> bool {
        let concern = self.concern(lease);
        if self.kind == Kind::Foundation && concern.with_foundation {
            return fill.foundation.is_named && fill.foundation.digest == self.value;
        }
        concern.has(fill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgrx::Uuid;

    fn user(number: u8) -> Uuid {
        Uuid::from_bytes([number; 16])
    }

    fn lease(foundation: Option<&[u8]>) -> Lease {
        Lease {
            database: 5.into(),
            user: *user(1),
            digest: *digest_of(b"chapter", b"k"),
            content_type: digest_of_type(b"chapter"),
            foundation: Foundation::of(foundation),
        }
    }

    fn concerns(subject: Subject, of_lease: Option<&[u8]>, of_fill: Option<&[u8]>, has_metadata: bool) -> bool {
        let fill = Filled { foundation: Foundation::of(of_fill), has_metadata };
        Stored::new(5.into(), &subject).concerns(&lease(of_lease), &fill)
    }

    #[test]
    fn a_subject_concerns_what_it_names_and_nothing_else() {
        let (alice, bob) = (user(1), user(2));
        let key =
            |user: Uuid, key| Address::new(Some(user), Some(&b"chapter"[..]), Some(key)).ok().expect("an address");
        for (subject, expected) in [
            (Subject::Key(&key(alice, b"k")), true),
            (Subject::Key(&key(alice, b"l")), false),
            (Subject::Key(&key(bob, b"k")), false),
            (Subject::Type(alice, b"chapter"), true),
            (Subject::Type(alice, b"tone"), false),
            (Subject::Type(bob, b"chapter"), false),
            (Subject::User(alice), true),
            (Subject::User(bob), false),
            (Subject::TypeOfAllUsers(b"chapter"), true),
            (Subject::TypeOfAllUsers(b"tone"), false),
            (Subject::Metadata(alice), false),
            (Subject::Foundation(alice, b"f"), false),
        ] {
            assert_eq!(concerns(subject, None, None, false), expected);
        }
        let elsewhere = Stored::new(6.into(), &Subject::User(alice));
        assert_eq!(elsewhere.concern(&lease(None)), Concern::NONE);
    }

    #[test]
    fn a_foundation_concerns_the_lease_that_names_it_or_the_fill_that_does() {
        let (alice, bob) = (user(1), user(2));
        let (f, g) = (Some(&b"f"[..]), Some(&b"g"[..]));
        let of = |user| Subject::Foundation(user, b"f");
        assert!(concerns(of(alice), f, f, false));
        assert!(!concerns(of(alice), g, g, false));
        assert!(concerns(of(alice), None, f, false));
        assert!(!concerns(of(alice), None, g, false));
        assert!(!concerns(of(alice), None, None, true));
        assert!(!concerns(of(bob), f, f, false));
        // Once it has committed, which one it was is forgotten.
        let concern = Stored::new(5.into(), &of(alice)).concern(&lease(None));
        assert!(concern.has(&Filled { foundation: Foundation::of(g), has_metadata: false }));
    }

    #[test]
    fn metadata_concern_fills_that_have_some() {
        let (alice, bob) = (user(1), user(2));
        assert!(concerns(Subject::Metadata(alice), None, None, true));
        assert!(!concerns(Subject::Metadata(alice), None, None, false));
        assert!(!concerns(Subject::Metadata(bob), None, None, true));
    }
}
