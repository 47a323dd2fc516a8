//! What happened: a file to which every process appends a line for each event.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::tasks::Kind;

/// One line: when, who, what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Microseconds since 1970, the same clock in all processes.
    pub(crate) at: u64,
    pub(crate) pid: u32,
    #[serde(flatten)]
    pub(crate) event: Event,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A worker consumes, or a producer is about to send.
    Ready,
    /// A producer has ended in good order: whatever it awaited is answered, or it waited long enough.
    Finished,
    /// A process ended that nobody had killed.
    Ended { victim: u32, how: String },
    /// A call is being sent, perhaps again.
    Send { id: String, kind: Kind, n: u64 },
    /// What came of sending it.
    Sent {
        id: String,
        outcome: Outcome,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// An attempt begins to run.
    Start { id: String, attempt: u32 },
    /// It ran to its end.
    End {
        id: String,
        attempt: u32,
        stale: bool,
    },
    /// The caller got an answer.
    Reply { id: String, answer: Answer },
    /// It was found among the dead letters.
    Dead { id: String, reason: String },
    /// A fault begins; `victims` are the processes it kills.
    Begin {
        fault: usize,
        kind: Fault,
        victims: Vec<u32>,
    },
    /// It is over since `back`; these processes are expected to take and to send calls from then on.
    Over {
        fault: usize,
        back: u64,
        workers: Vec<u32>,
        producers: Vec<u32>,
    },
    /// At the end, so many messages were left in a queue.
    Left { queue: String, messages: u64 },
}

/// What sending a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Confirmed,
    /// Sent, not confirmed in time: stored or not.
    Unconfirmed,
    Refused,
    Unroutable,
    Blocked,
    Unavailable,
    /// Any other error, which says nothing of whether it is stored.
    Other,
}

impl Outcome {
    /// Whether it says that the call is not stored.
    pub(crate) fn is_definite_failure(self) -> bool {
        matches!(
            self,
            Self::Refused | Self::Unroutable | Self::Blocked | Self::Unavailable
        )
    }
}

/// What a caller got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Value(u64),
    /// A failure, with its kind.
    Failure(String),
    /// None came as long as the producer waited.
    Nothing,
}

/// Microseconds since 1970.
pub(crate) fn now() -> u64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    u64::try_from(elapsed.as_micros()).expect("not for ages")
}

/// The file, open for appending.
pub(crate) struct History {
    file: File,
    pid: u32,
}

impl History {
    pub(crate) fn open(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self {
            file: file.expect("the history opens"),
            pid: std::process::id(),
        }
    }

    /// Appends an event in one write, which no other process interrupts and no kill tears.
    pub(crate) fn note(&self, event: Event) {
        let entry = Entry {
            at: now(),
            pid: self.pid,
            event,
        };
        let mut line = serde_json::to_vec(&entry).expect("events are JSON");
        line.push(b'\n');
        (&self.file)
            .write_all(&line)
            .expect("the history takes a line");
    }
}

/// Reads what is appended.
pub(crate) struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            offset: 0,
        }
    }

    /// The entries that were added since the last time.
    pub(crate) fn read(&mut self) -> Vec<Entry> {
        let mut text = String::new();
        let mut file = File::open(&self.path).expect("the history");
        file.seek(SeekFrom::Start(self.offset)).expect("a file");
        file.read_to_string(&mut text).expect("JSON");
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        self.offset += complete as u64;
        text[..complete]
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}
