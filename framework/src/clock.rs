//! What time it is for an app: the system's time, or, in memory, one that stands still when tokio's is paused.

use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How long paused time is held for a thread, in real time.
const HELD: Duration = Duration::from_secs(1);

/// Where an app reads the time of day.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Clock {
    /// The system's clock, which the broker's other processes read, too.
    #[default]
    System,
    /// Tokio's clock, from a moment on at which both were read: tests pause and advance it.
    Tokio { start: SystemTime, since: Instant },
}

impl Clock {
    /// Tokio's clock, set by the system's now.
    pub(crate) fn tokio() -> Self {
        Self::Tokio {
            start: SystemTime::now(),
            since: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Tokio { start, since } => *start + since.elapsed(),
        }
    }

    /// Keeps paused time from jumping ahead, as it does when the runtime has nothing to do, while a thread of
    /// ours works: until this is dropped, but for no more than a second.
    pub(crate) fn hold(&self) -> Option<Hold> {
        match self {
            Self::System => None,
            Self::Tokio { .. } => {
                let (hold, released) = mpsc::channel();
                // Tokio does not move paused time while one of these runs. It ends when `hold` is dropped.
                tokio::task::spawn_blocking(move || released.recv_timeout(HELD));
                Some(Hold(hold))
            }
        }
    }
}

/// Holds paused time while it lives.
pub(crate) struct Hold(#[allow(dead_code, reason = "it is its end that counts")] mpsc::Sender<()>);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokios_time_is_followed() {
        let clock = Clock::tokio();
        let start = clock.now();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let hour = clock.now().duration_since(start).expect("later");
        assert_eq!(hour.as_secs(), 3600);
        assert_eq!(clock.now(), clock.now(), "it stands still");
    }
}
