//! A small disk for the embedded broker, which can be filled, and another program that locks its file.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

const SIZE: &str = "size=192m";

/// A file system in memory, unmounted when it is dropped.
pub(crate) struct Disk {
    folder: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Mounts one on `folder`, or uses the folder's own disk, and says so, where that is not allowed.
    pub(crate) fn mount(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(&folder);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: `disk full`, for want of permission to mount a small file system");
        }
        Self { folder, mounted }
    }

    pub(crate) fn can_be_filled(&self) -> bool {
        self.mounted
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.join("torture.db")
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) {
        assert!(self.mounted, "only a disk of ours is filled");
        let fill = |mut ballast: File| while ballast.write_all(&[0; 4096]).is_ok() {};
        fill(File::create(self.ballast()).expect("a file"));
        // The log has room of its own, in which a writer could go on for long.
        if let Ok(db) = Connection::open(self.database()) {
            let _ = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
        let more = File::options().append(true).open(self.ballast());
        fill(more.expect("a file"));
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // At worst it stays mounted.
            let _ = Command::new("umount").arg("-l").arg(&self.folder).output();
        }
    }
}

/// Takes the write lock of the database at `path`, until it is dropped.
pub(crate) fn lock(path: &Path) -> Connection {
    let db = Connection::open(path).expect("the database");
    db.busy_timeout(std::time::Duration::from_secs(10))
        .expect("set");
    db.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    db
}
