//! What came of the cases, said as they end.

use std::fmt::Debug;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Why a case failed.
#[derive(Debug)]
pub(crate) struct Mismatch {
    pub(crate) expected: String,
    pub(crate) got: String,
}

pub(crate) type Outcome = Result<(), Mismatch>;

/// Fails the case unless both are equal.
#[allow(
    clippy::needless_pass_by_value,
    reason = "results and literals, which nobody wants back"
)]
pub(crate) fn same<A: Debug + PartialEq<B>, B: Debug>(got: A, expected: B) -> Outcome {
    match got == expected {
        true => Ok(()),
        false => Err(mismatch(format!("{expected:?}"), &got)),
    }
}

/// Fails the case unless `holds`: what was expected in words, and what came.
pub(crate) fn holds(holds: bool, expected: &str, got: impl Debug) -> Outcome {
    match holds {
        true => Ok(()),
        false => Err(mismatch(expected, &got)),
    }
}

pub(crate) fn mismatch(expected: impl Into<String>, got: &dyn Debug) -> Mismatch {
    Mismatch {
        expected: expected.into(),
        got: format!("{got:?}"),
    }
}

/// How many cases there were, and how many failed.
#[derive(Default)]
pub(crate) struct Tally {
    passed: AtomicUsize,
    failed: AtomicUsize,
}

impl Tally {
    /// Says what came of a case.
    pub(crate) fn tell(
        &self,
        version: &str,
        direction: &str,
        name: &str,
        took: Duration,
        outcome: Outcome,
    ) {
        let seconds = took.as_secs_f64();
        let line = format!("celery {version:<6} {direction:<15} {name}");
        match outcome {
            Ok(()) => {
                self.passed.fetch_add(1, Ordering::Relaxed);
                println!("ok      {line} ({seconds:.2} s)");
            }
            Err(Mismatch { expected, got }) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                println!(
                    "FAILED  {line} ({seconds:.2} s)\n        expected: {expected}\n        got:      {got}"
                );
            }
        }
    }

    /// Says how it all went.
    pub(crate) fn conclude(&self) -> ExitCode {
        let (passed, failed) = (
            self.passed.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        );
        println!("interop: {passed} cases passed, {failed} failed");
        match failed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}
