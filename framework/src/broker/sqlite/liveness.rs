//! Tells which processes live, by a lock that the operating system drops with a process: no guess of
//! time. Knows nothing of what a dead process held.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::schema::create_private_directory;

/// A lock file without a process is not removed before this age: its process may just be starting.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// The directory beside the database in which each process holds a lock file.
#[derive(Debug, Clone)]
pub(super) struct LockDirectory(PathBuf);

/// This process's own lock, held as long as this lives.
#[derive(Debug)]
pub(super) struct ProcessLock {
    path: PathBuf,
    _file: File,
}

/// Proof that a process is dead: its lock, now held by us, so that no one else rescues it meanwhile.
#[derive(Debug)]
pub(super) struct DeadProcess {
    /// The process's id.
    pub(super) id: i64,
    path: PathBuf,
    _lock: Option<File>,
}

impl LockDirectory {
    /// The directory for the database at `database`.
    pub(super) fn beside(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push("-locks");
        Self(name.into())
    }

    fn file(&self, id: i64) -> PathBuf {
        self.0.join(format!("{id:016x}"))
    }

    /// Takes the lock of a new process. To be done before others can learn its id: whoever knows an id
    /// and finds no lock takes the process for dead.
    pub(super) fn enter(&self, id: i64) -> io::Result<ProcessLock> {
        create_private_directory(&self.0)?;
        let path = self.file(id);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        file.try_lock()?;
        Ok(ProcessLock { path, _file: file })
    }

    /// Proof that the process `id` is dead, or `None` while it lives.
    pub(super) fn find_dead(&self, id: i64) -> Option<DeadProcess> {
        let path = self.file(id);
        let dead = |lock| DeadProcess {
            id,
            path: path.clone(),
            _lock: lock,
        };
        let file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Some(dead(None)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot tell whether a process lives");
                return None;
            }
        };
        match file.try_lock() {
            Ok(()) => Some(dead(Some(file))),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => {
                tracing::warn!(path = %path.display(), %error, "cannot tell whether a process lives");
                None
            }
        }
    }

    /// Those of `others` that are found dead this time. Each process looks after the first of them, which is the next
    /// one for it, and after those that follow dead ones, so that this costs the same however many there are; and after
    /// one more, another at each `turn`, since the one before a dead process may be stopped.
    pub(super) fn look_after<'a>(
        &'a self,
        others: &'a [i64],
        turn: usize,
    ) -> impl Iterator<Item = DeadProcess> + 'a {
        let next = others.iter().map_while(|id| self.find_dead(*id));
        let one_more = turn.checked_rem(others.len());
        let one_more = one_more.and_then(|place| others.get(place)).into_iter();
        next.chain(one_more.filter_map(|id| self.find_dead(*id)))
    }

    /// Removes lock files that a crash left behind of processes that are not among `known`.
    pub(super) fn sweep(&self, known: &[i64], now: SystemTime) {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name
                .to_str()
                .and_then(|name| u64::from_str_radix(name, 16).ok());
            let Some(id) = id.map(u64::cast_signed) else {
                continue;
            };
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .map(|at| now.duration_since(at).unwrap_or_default());
            if !known.contains(&id)
                && age.is_ok_and(|age| age > ORPHAN_AGE)
                && let Some(dead) = self.find_dead(id)
            {
                dead.bury();
            }
        }
    }
}

impl DeadProcess {
    /// Removes the lock file: the process's row is gone.
    pub(super) fn bury(self) {
        // If it stays, a later sweep removes it.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for ProcessLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_as_long_as_its_lock() {
        let base = std::env::temp_dir().join(format!("garenne-{}", uuid::Uuid::new_v4().simple()));
        let locks = LockDirectory::beside(&base);
        let held = locks.enter(-7).expect("a lock");
        assert!(locks.find_dead(-7).is_none(), "it lives");
        assert!(locks.enter(-7).is_err(), "an id is used once");
        drop(held);
        assert!(locks.find_dead(-7).is_some(), "its file is gone");

        let kept = locks.enter(8).expect("a lock");
        let later = SystemTime::now() + 2 * ORPHAN_AGE;
        locks.sweep(&[], later);
        assert!(locks.file(8).exists(), "a living process's file stays");
        std::mem::forget(kept);
        fs::remove_dir_all(&locks.0).expect("removed");
    }

    #[test]
    fn the_dead_are_found_next_to_us_at_once_and_elsewhere_in_turn() {
        let base = std::env::temp_dir().join(format!("garenne-{}", uuid::Uuid::new_v4().simple()));
        let locks = LockDirectory::beside(&base);
        let _alive = [3, 5].map(|id| locks.enter(id).expect("a lock"));
        for dead in [1, 2, 4, 6] {
            drop(locks.enter(dead).expect("a lock"));
            fs::write(locks.file(dead), "").expect("what a killed process leaves");
        }
        let found = |others: &[i64], turn| -> Vec<i64> {
            let dead = locks.look_after(others, turn);
            dead.map(|dead| dead.id).collect()
        };
        assert_eq!(found(&[1, 2, 3, 4], 2), [1, 2], "up to one that lives");
        assert_eq!(found(&[1, 2, 3, 4], 3), [1, 2, 4]);
        let all: Vec<_> = (0..4).flat_map(|turn| found(&[3, 4, 5, 6], turn)).collect();
        assert_eq!(all, [4, 6], "though those before them do nothing");
        assert!(found(&[], 7).is_empty());
        fs::remove_dir_all(&locks.0).expect("removed");
    }
}
