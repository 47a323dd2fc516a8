//! A failure as Celery describes an exception: what a Python caller gets raised.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::TEXT_LIMIT;
use crate::failure::{Failure, FailureKind};
use crate::message::{Message, cut};

/// A failure's `result` in a reply.
#[derive(Serialize, Deserialize)]
pub(super) struct ExceptionBody {
    pub(super) exc_type: String,
    #[serde(default)]
    pub(super) exc_message: Value,
    #[serde(default)]
    pub(super) exc_module: Option<String>,
}

/// Errors of Rust that mean the same as one of Python's own.
const BUILTIN: [(&str, &str); 20] = [
    ("alloc::collections::TryReserveError", "MemoryError"),
    ("alloc::ffi::c_str::NulError", "ValueError"),
    ("alloc::string::FromUtf8Error", "UnicodeError"),
    ("core::array::TryFromSliceError", "ValueError"),
    ("core::char::convert::ParseCharError", "ValueError"),
    ("core::net::parser::AddrParseError", "ValueError"),
    ("core::num::dec2flt::ParseFloatError", "ValueError"),
    ("core::num::error::ParseIntError", "ValueError"),
    ("core::num::error::TryFromIntError", "OverflowError"),
    ("core::num::float_parse::ParseFloatError", "ValueError"),
    ("core::num::imp::dec2flt::ParseFloatError", "ValueError"),
    ("core::str::error::ParseBoolError", "ValueError"),
    ("core::str::error::Utf8Error", "UnicodeError"),
    ("core::time::TryFromFloatSecsError", "ValueError"),
    ("serde_json::error::Error", "ValueError"),
    ("std::env::VarError", "KeyError"),
    ("std::io::error::Error", "OSError"),
    ("std::time::SystemTimeError", "ValueError"),
    ("tokio::time::error::Elapsed", "TimeoutError"),
    ("uuid::error::Error", "ValueError"),
];

/// The exception that a Python caller gets: Python's or Celery's own where one means the same, otherwise the
/// Rust type under its crate's path.
pub(super) fn exception(failure: &Failure) -> Box<RawValue> {
    let said = json!([cut(&failure.message, TEXT_LIMIT)]);
    let (module, name, message) = match failure.kind {
        FailureKind::Expired => ("celery.exceptions", "TaskRevokedError", json!(["expired"])),
        FailureKind::Cancelled => ("celery.exceptions", "TaskRevokedError", json!(["revoked"])),
        FailureKind::TimedOut => {
            let name = match failure.error_type.rsplit_once('.') {
                Some(("billiard.exceptions", name)) => name,
                _ => "TimeLimitExceeded",
            };
            ("billiard.exceptions", name, said)
        }
        FailureKind::Panicked => ("garenne", "Panic", said),
        FailureKind::Rejected if failure.error_type.is_empty() => ("garenne", "Rejected", said),
        FailureKind::Rejected | FailureKind::Failed | FailureKind::Unknown => {
            let (module, name) = match split_path(&failure.error_type) {
                ("builtins", "OSError") => ("builtins", os_error(&failure.message)),
                path => path,
            };
            (module, name, said)
        }
    };
    let body = ExceptionBody {
        exc_type: name.into(),
        exc_message: message,
        exc_module: Some(module.into()),
    };
    serde_json::value::to_raw_value(&body).expect("an exception always serialises")
}

/// The module and the name of a type of Rust (`crate::module::Type`) or of Python (`package.module.Type`).
fn split_path(path: &str) -> (&str, &str) {
    const NAMELESS: (&str, &str) = ("builtins", "Exception");
    if path.contains(['<', '&']) || path == "alloc::string::String" || path == "anyhow::Error" {
        return NAMELESS;
    }
    if let Some((_, name)) = BUILTIN.iter().find(|(rust, _)| *rust == path) {
        return ("builtins", name);
    }
    path.rsplit_once("::")
        .or_else(|| path.rsplit_once('.'))
        .unwrap_or(NAMELESS)
}

/// Python's class for an error of the operating system's, whose text ends with `(os error 2)`.
fn os_error(text: &str) -> &'static str {
    use std::io::ErrorKind;
    let number = text
        .strip_suffix(')')
        .and_then(|text| text.rsplit_once("(os error "));
    let Some(number) = number.and_then(|(_, number)| number.parse().ok()) else {
        return "OSError";
    };
    match std::io::Error::from_raw_os_error(number).kind() {
        ErrorKind::NotFound => "FileNotFoundError",
        ErrorKind::PermissionDenied => "PermissionError",
        ErrorKind::AlreadyExists => "FileExistsError",
        ErrorKind::NotADirectory => "NotADirectoryError",
        ErrorKind::IsADirectory => "IsADirectoryError",
        ErrorKind::ConnectionRefused => "ConnectionRefusedError",
        ErrorKind::ConnectionReset => "ConnectionResetError",
        ErrorKind::ConnectionAborted => "ConnectionAbortedError",
        ErrorKind::BrokenPipe => "BrokenPipeError",
        ErrorKind::TimedOut => "TimeoutError",
        _ => "OSError",
    }
}

/// What stands in for Python's traceback: the attempts, each with its error.
pub(super) fn traceback(failure: &Failure, request: &Message) -> String {
    let mut lines = vec![format!(
        "task `{}`, call {}, {} in Rust",
        cut(&failure.task, 255),
        cut(&failure.id, 255),
        failure.kind
    )];
    for past in request.errors() {
        lines.push(format!("  attempt {}: {}", past.attempt, past.error));
    }
    let error_type = match &*failure.error_type {
        "" => "error",
        name => name,
    };
    let message = cut(&failure.message, TEXT_LIMIT);
    lines.push(match failure.attempts {
        0 => format!("{error_type}: {message}"),
        attempt => format!("  attempt {attempt}: {error_type}: {message}"),
    });
    lines.join("\n")
}
