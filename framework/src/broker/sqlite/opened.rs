//! Notices that the file is not at its path any more: what is written to a deleted file is lost with the
//! process, however often SQLite confirms it.

use std::path::{Path, PathBuf};

/// The file as it was opened.
#[derive(Debug, Clone)]
pub(super) struct OpenedFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl OpenedFile {
    /// The file that is at `path` now.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            identity: identity(path),
        }
    }

    /// Whether the path leads to another file now, or to none.
    pub(super) fn is_displaced(&self) -> bool {
        self.identity.is_some() && identity(&self.path) != self.identity
    }
}

/// What tells a file from all others; `None` where there is none, or the system does not say.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Elsewhere an open file can neither be deleted nor replaced.
#[cfg(not(unix))]
fn identity(_: &Path) -> Option<(u64, u64)> {
    None
}
