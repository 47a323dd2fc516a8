//! The file: its creation, its connections' settings, its tables and their versions. Knows nothing of the
//! requests that will use them.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::fault::{BUSY_LIMIT, Fault};

/// Marks a database as ours, so that another program's is never written to ("gar1").
const APPLICATION_ID: i64 = 0x6761_7231;
/// The version of the tables below.
const VERSION: i64 = 3;
/// What each version after the first has added.
const ADDED: [&str; 2] = [JOINS, BROADCASTS];
/// Older ones can corrupt a file whose log is reset by two processes at once.
const OLDEST_SQLITE: i32 = 3_051_003;
/// Statements kept prepared by each connection: more than there are in `store.rs` and `joins.rs`.
const STATEMENTS: usize = 96;

/// The tables. What is claimed again and again has an index of its own: the next ready message of a
/// queue, its earliest delayed one, and what a process holds are one step away at any depth.
const TABLES: &str = "
CREATE TABLE process (
    id INTEGER PRIMARY KEY,
    port INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    started_at INTEGER NOT NULL
) STRICT;
CREATE TABLE queue (
    name TEXT PRIMARY KEY,
    max_priority INTEGER,
    dead INTEGER NOT NULL DEFAULT 0,
    reply INTEGER NOT NULL DEFAULT 0,
    owner INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX queue_owner ON queue (owner) WHERE owner IS NOT NULL;
CREATE TABLE exchange (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE binding (
    exchange TEXT NOT NULL REFERENCES exchange ON DELETE CASCADE,
    queue TEXT NOT NULL REFERENCES queue ON DELETE CASCADE,
    routing_key TEXT NOT NULL,
    headers TEXT NOT NULL,
    every INTEGER NOT NULL,
    PRIMARY KEY (exchange, queue, routing_key, headers, every)
) STRICT, WITHOUT ROWID;
CREATE INDEX binding_queue ON binding (queue);
CREATE TABLE message (
    seq INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    owner INTEGER,
    due INTEGER,
    losses INTEGER NOT NULL DEFAULT 0,
    redelivered INTEGER NOT NULL DEFAULT 0,
    prune_at INTEGER,
    exchange TEXT,
    routing_key TEXT,
    envelope TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX message_ready ON message (queue, priority DESC, seq)
    WHERE owner IS NULL AND due IS NULL;
CREATE INDEX message_due ON message (queue, due) WHERE due IS NOT NULL;
CREATE INDEX message_owner ON message (owner) WHERE owner IS NOT NULL;
CREATE INDEX message_prune ON message (prune_at) WHERE prune_at IS NOT NULL;
CREATE TABLE consumer (
    process INTEGER NOT NULL REFERENCES process ON DELETE CASCADE,
    number INTEGER NOT NULL,
    queue TEXT NOT NULL,
    hungry INTEGER NOT NULL,
    PRIMARY KEY (process, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX consumer_queue ON consumer (queue);
CREATE TABLE cancelled (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX cancelled_at ON cancelled (at);
";

/// Who listens to broadcasts, and the latest of them.
const BROADCASTS: &str = "
CREATE TABLE listener (
    process INTEGER NOT NULL REFERENCES process ON DELETE CASCADE,
    number INTEGER NOT NULL,
    channel TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (process, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE announcement (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT NOT NULL,
    key TEXT NOT NULL,
    at INTEGER NOT NULL,
    envelope TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
";

/// The tables of joins. A body has one of its own, so that counting a part does not write it again; it is
/// gone when its join has fired.
const JOINS: &str = "
CREATE TABLE open_join (
    name TEXT PRIMARY KEY,
    wanted INTEGER NOT NULL,
    there INTEGER NOT NULL DEFAULT 0,
    used_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE join_body (
    name TEXT PRIMARY KEY REFERENCES open_join ON DELETE CASCADE,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    delay INTEGER NOT NULL,
    envelope TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE join_part (
    name TEXT NOT NULL REFERENCES open_join ON DELETE CASCADE,
    part TEXT NOT NULL,
    envelope TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (name, part)
) STRICT;
";

/// Opens the file for the writer thread, creating it and its tables where they are missing.
///
/// # Errors
/// A sentence for a person.
pub(super) fn open(path: &Path) -> Result<Connection, String> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(format!(
            "this program was linked with SQLite {}, which can corrupt a shared file: 3.51.3 or newer is needed",
            rusqlite::version()
        ));
    }
    create_file(path).map_err(|e| {
        format!(
            "`{}` cannot be created: {e}: name a file in a directory that may be written",
            path.display()
        )
    })?;
    let explain = |e: rusqlite::Error| Fault::new(path, &e).reason().to_owned();
    let db = connect(path).map_err(explain)?;
    migrate(&db)
        .map_err(explain)?
        .map_err(|reason| format!("`{}` {reason}", path.display()))?;
    Ok(db)
}

/// A connection that only reads, beside the writer's.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let db = connect(path)?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut db = Connection::open(path)?;
    db.busy_handler(Some(wait_turn(BUSY_LIMIT)))?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Without it a statement is prepared anew each time that another limit is bound to it.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // First, since the other settings are read from the file that it opens.
    db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // On macOS a plain fsync leaves the data in the drive's cache; elsewhere these change nothing.
    db.pragma_update(None, "fullfsync", true)?;
    db.pragma_update(None, "checkpoint_fullfsync", true)?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cell_size_check", true)?;
    db.pragma_update(None, "temp_store", "memory")?;
    // 8 MiB, taken as they are used: what a transaction writes beyond them is written twice.
    db.pragma_update(None, "cache_size", -8192)?;
    db.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))?;
    // 8 MiB of log between checkpoints: a quarter of the default's fsyncs of the file itself.
    db.pragma_update_and_check(None, "wal_autocheckpoint", 2000, |_| Ok(()))?;
    Ok(db)
}

/// SQLite's own handler sleeps up to 100 ms between its tries, by which a process that waits loses every
/// race against one that has just come; this one looks often, and gives up after `limit`.
fn wait_turn(limit: Duration) -> impl FnMut(i32) -> bool + Send + 'static {
    let mut since = Instant::now();
    move |tries| {
        if tries == 0 {
            since = Instant::now();
        }
        let pause = match tries {
            0..8 => 100,
            8..200 => 500,
            _ => 2000,
        };
        std::thread::sleep(Duration::from_micros(pause));
        since.elapsed() < limit
    }
}

/// Creates the file readable by its owner alone; it may exist.
///
/// Made under another name and then linked: closing any descriptor of a file that SQLite has open in
/// this process would drop SQLite's locks on it.
fn create_file(path: &Path) -> std::io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory {
        create_private_directory(directory)?;
    }
    if path.exists() {
        return Ok(());
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    drop(options.open(&draft)?);
    // Where links are not known, SQLite creates the file with the directory's usual permissions.
    let _ = fs::hard_link(&draft, path);
    fs::remove_file(&draft)
}

/// Creates `directory` and its parents for this user alone, where they are missing.
pub(super) fn create_private_directory(directory: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Brings the tables to this version; the inner error is why they cannot be used.
fn migrate(db: &Connection) -> rusqlite::Result<Result<(), String>> {
    let done = migrate_version(db)?;
    if done.is_ok() {
        db.execute_batch(super::lease::TABLE)?;
    }
    Ok(done)
}

fn migrate_version(db: &Connection) -> rusqlite::Result<Result<(), String>> {
    let number = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    if number("application_id")? == APPLICATION_ID && number("user_version")? == VERSION {
        return Ok(Ok(()));
    }
    let tx = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let (application, version) = (number("application_id")?, number("user_version")?);
    if application == APPLICATION_ID {
        return Ok(match version {
            VERSION => Ok(()),
            1..VERSION => {
                let missing = usize::try_from(version - 1).unwrap_or_default();
                for tables in &ADDED[missing..] {
                    tx.execute_batch(tables)?;
                }
                tx.pragma_update(None, "user_version", VERSION)?;
                tx.commit()?;
                Ok(())
            }
            _ => Err(format!(
                "was made by another version of garenne (its tables have version {version}, this one's {VERSION})"
            )),
        });
    }
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != 0 || version != 0 || tables > 0 {
        return Ok(Err(
            "is another program's database: give the queue a file of its own".into(),
        ));
    }
    tx.execute_batch(TABLES)?;
    for tables in ADDED {
        tx.execute_batch(tables)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    Ok(Ok(()))
}

#[cfg(test)]
pub(super) fn in_memory() -> Connection {
    let db = Connection::open_in_memory().expect("memory is there");
    migrate(&db).expect("it is writable").expect("it is new");
    db
}
