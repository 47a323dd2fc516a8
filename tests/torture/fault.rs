//! The kinds of faults, and where they can happen.

use serde::{Deserialize, Serialize};

/// Where a storm rages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// Three nodes of RabbitMQ, quorum queues.
    Cluster,
    /// One node, classic queues.
    Classic,
    Sqlite,
}

impl Site {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Classic => "classic",
            Self::Sqlite => "sqlite",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Cluster => "RabbitMQ, three nodes, quorum queues",
            Self::Classic => "RabbitMQ, one node, classic queues",
            Self::Sqlite => "SQLite",
        }
    }
}

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident, $name:literal, $sites:ident, $repeats:ident;)+) => {
        /// What can be done to a storm's processes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub(crate) enum Fault { $($(#[$doc])* $fault,)+ }

        impl Fault {
            pub(crate) const ALL: &[Self] = &[$(Self::$fault),+];

            /// In words, for the table.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$fault => $name,)+ }
            }

            /// Whether it can happen at `site`.
            pub(crate) fn is_at(self, site: Site) -> bool {
                match self { $(Self::$fault => $sites(site),)+ }
            }

            /// Whether a call may run again because of it.
            pub(crate) fn may_repeat(self, site: Site) -> bool {
                match self { $(Self::$fault => $repeats(site),)+ }
            }
        }
    };
}

fn everywhere(_: Site) -> bool {
    true
}

fn never(_: Site) -> bool {
    false
}

fn rabbitmq(site: Site) -> bool {
    site != Site::Sqlite
}

fn cluster(site: Site) -> bool {
    site == Site::Cluster
}

fn sqlite(site: Site) -> bool {
    site == Site::Sqlite
}

faults! {
    /// SIGKILL.
    WorkerKilled, "worker killed", everywhere, everywhere;
    /// SIGTERM, and the worker stops as it should.
    WorkerStopped, "worker stopped gracefully", everywhere, never;
    /// SIGSTOP, for less than the heartbeat.
    WorkerPaused, "worker paused, shorter than the heartbeat", everywhere, never;
    /// SIGSTOP, until the broker has given it up.
    WorkerPausedLong, "worker paused, longer than two heartbeats", everywhere, rabbitmq;
    ProducerKilled, "producer killed", everywhere, never;
    /// SIGSTOP, until the broker has given it up. What it publishes again under the same id may run again.
    ProducerPausedLong, "producer paused, longer than two heartbeats", everywhere, rabbitmq;
    NodeKilled, "broker node killed", rabbitmq, rabbitmq;
    NodeRestarted, "broker node restarted gracefully", rabbitmq, rabbitmq;
    NodePaused, "broker node paused, shorter than the heartbeat", rabbitmq, cluster;
    NodePausedLong, "broker node paused, longer than two heartbeats", rabbitmq, rabbitmq;
    LeaderKilled, "queue leader killed", cluster, rabbitmq;
    LeaderMoved, "queue leader moved", cluster, rabbitmq;
    /// The one that is left is no majority: the queue stands still.
    TwoNodesKilled, "two of three nodes killed", cluster, rabbitmq;
    AllNodesKilled, "all three nodes killed", cluster, rabbitmq;
    /// The broker takes no messages for want of memory. A retry that a worker had on the wire when that began is
    /// unconfirmed at its deadline, and sent again.
    MemoryAlarm, "memory alarm", rabbitmq, rabbitmq;
    Cut, "connections closed", rabbitmq, rabbitmq;
    Reset, "connections reset", rabbitmq, rabbitmq;
    /// Connections are reset after some bytes, wherever in a frame that is, again and again.
    CutInFrame, "connections reset within frames, again and again", rabbitmq, rabbitmq;
    HalfClosed, "connections half-closed", rabbitmq, rabbitmq;
    Delayed, "150 ms of latency and as much jitter", rabbitmq, never;
    Slow, "slow link, 20 kB/s", rabbitmq, rabbitmq;
    /// Sockets stay, nothing flows.
    BlackHole, "black hole", rabbitmq, rabbitmq;
    AcceptThenClose, "connections accepted and closed", rabbitmq, rabbitmq;
    ClosedPort, "connections closed, port refused", rabbitmq, rabbitmq;
    DiskFull, "disk full", sqlite, never;
    /// Another program keeps the file's write lock.
    FileLocked, "file locked by another program", sqlite, never;
}
