//! What SQLite's errors mean for who asked: which may pass, which need a person, and what that person can
//! do. Knows nothing of queues.

use std::path::Path;
use std::time::Duration;

use rusqlite::{ErrorCode, ffi};

use crate::error::Error;

/// How long a process waits for the others to let go of the file before it says so.
pub(super) const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// What became of a statement or a transaction that SQLite did not carry out.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    kind: Kind,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Busy,
    Full,
    Denied,
    Damaged,
    Other,
}

impl Fault {
    /// Explains `error`, met on the file at `path`.
    pub(super) fn new(path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.display();
        let code = error.sqlite_error().map(|error| error.extended_code);
        let (kind, advice) = match error.sqlite_error_code() {
            // Nobody can store what the tables' declared types forbid: a row has become that.
            _ if matches!(
                code,
                Some(ffi::SQLITE_CONSTRAINT_DATATYPE | ffi::SQLITE_CONSTRAINT_NOTNULL)
            ) =>
            {
                (Kind::Damaged, damaged(&path))
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
                Kind::Busy,
                format!("another program has kept `{path}` locked for {BUSY_LIMIT:?}"),
            ),
            Some(ErrorCode::DiskFull) => (
                Kind::Full,
                format!("`{path}` cannot grow: free space on its disk"),
            ),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => (
                Kind::Denied,
                format!(
                    "`{path}` cannot be written: it must be a file, check its permissions and its directory's"
                ),
            ),
            Some(ErrorCode::NotADatabase) => (
                Kind::Damaged,
                format!("`{path}` is not a SQLite database: name another file"),
            ),
            Some(ErrorCode::DatabaseCorrupt) => (Kind::Damaged, damaged(&path)),
            Some(ErrorCode::SystemIoFailure) => (
                Kind::Other,
                format!("`{path}` cannot be read or written: look at its disk"),
            ),
            _ => (Kind::Other, format!("`{path}`")),
        };
        Self {
            kind,
            reason: format!("{advice} ({error})"),
        }
    }

    /// The file at `path` was deleted or replaced while it was in use.
    pub(super) fn displaced(path: &Path) -> Self {
        Self {
            kind: Kind::Denied,
            reason: format!(
                "`{}` was deleted, moved or replaced while it was in use: put the file back, or start the \
                 programs that use it again",
                path.display()
            ),
        }
    }

    /// Whether the transaction failed for want of space, which others in it may not need.
    pub(super) fn is_full(&self) -> bool {
        self.kind == Kind::Full
    }

    /// Whether waiting does not mend it.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self.kind, Kind::Denied | Kind::Damaged)
    }

    /// The words for a person.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// The error of who asked for `what`.
    pub(super) fn error(&self, what: String) -> Error {
        let reason = self.reason.clone();
        match self.kind {
            Kind::Busy => Error::Unavailable {
                what,
                waited: BUSY_LIMIT,
                reason,
            },
            // A full disk is what a broker's alarm is about: the sender may try again later.
            Kind::Full => Error::Blocked {
                route: what,
                reason,
                waited: Duration::ZERO,
            },
            Kind::Denied => Error::Refused { what, reason },
            Kind::Damaged | Kind::Other => Error::broker(what, reason),
        }
    }
}

fn damaged(path: &dyn std::fmt::Display) -> String {
    format!("`{path}` is damaged: stop all programs that use it, keep a copy, and restore it")
}

/// Why one request of a batch was not carried out.
#[derive(Debug)]
pub(super) enum Failed {
    /// The database failed.
    Sql(rusqlite::Error),
    /// The database is well, the request is not.
    Said(Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: i32) -> Fault {
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        Fault::new(Path::new("some.db"), &error)
    }

    #[test]
    fn each_error_names_the_file_and_whether_it_may_pass() {
        use rusqlite::ffi;
        for (code, transient, lasting) in [
            (ffi::SQLITE_BUSY, true, false),
            (ffi::SQLITE_FULL, true, false),
            (ffi::SQLITE_READONLY, false, true),
            (ffi::SQLITE_CORRUPT, false, true),
            (ffi::SQLITE_CONSTRAINT_DATATYPE, false, true),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, false, false),
            (ffi::SQLITE_NOTADB, false, true),
            (ffi::SQLITE_IOERR, false, false),
        ] {
            let fault = fault(code);
            let error = fault.error("queue `q`".into());
            assert_eq!(error.is_transient(), transient, "{error}");
            assert_eq!(fault.is_lasting(), lasting, "{error}");
            assert!(fault.reason().contains("some.db"), "{}", fault.reason());
        }
    }
}
