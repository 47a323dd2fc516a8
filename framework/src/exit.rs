//! A process's end as supervisors read it.

use std::process::{ExitCode, Termination};

use crate::error::{Error, Result};

/// What `main` returns so that a supervisor sees in the exit status why a worker ended.
///
/// The codes are those of `sysexits.h`; see [`Error::exit_code`].
///
/// ```no_run
/// use garenne::{App, Exit, Worker};
///
/// async fn work() -> garenne::error::Result<()> {
///     let app = App::connect("amqp://localhost").await?;
///     Worker::new(&app).queue("default", 8).run(garenne::shutdown_signal()).await
/// }
///
/// #[tokio::main]
/// async fn main() -> Exit {
///     work().await.into()
/// }
/// ```
#[derive(Debug)]
pub struct Exit(Result<()>);

impl From<Result<()>> for Exit {
    fn from(outcome: Result<()>) -> Self {
        Self(outcome)
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        match self.0 {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("Error: {error}");
                ExitCode::from(error.exit_code())
            }
        }
    }
}

impl Error {
    /// The exit status for a process that ends with this error: 75 (`EX_TEMPFAIL`) for a worker that was
    /// deaf and should be started again, 69 (`EX_UNAVAILABLE`) where no broker could be reached, 78
    /// (`EX_CONFIG`) where something must be changed first, 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Deaf { .. } => 75,
            Self::Connect { .. } | Self::Unavailable { .. } => 69,
            Self::InvalidUrl { .. }
            | Self::Invalid { .. }
            | Self::DuplicateTask { .. }
            | Self::MissingState { .. }
            | Self::NoTasks
            | Self::NoQueues => 78,
            _ => 1,
        }
    }
}
