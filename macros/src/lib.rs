//! The `#[task]` attribute of `garenne`: options → task → validate → expand, a file each.

mod duration;
mod error;
mod expand;
mod options;
mod task;
mod validate;

use error::Errors;
use options::Options;
use proc_macro::TokenStream;
use task::Task;

/// Makes a function a task.
///
/// The function stays as it is. Beside it comes a struct of the same name, whose `call` takes the owned
/// parameters and makes a [`Call`](https://docs.rs/garenne/latest/garenne/struct.Call.html) to be sent.
///
/// - Owned parameters travel in the message. Borrowed ones (`&Db`, `&Context`) are lent by the worker.
/// - An `async fn` runs on the runtime, a plain `fn` on a thread of its own.
/// - A function whose return type's name ends in `Result` may fail with any displayable error.
/// - A trailing `Option<T>` that the message lacks is `None`.
///
/// | option | example | unless given |
/// |---|---|---|
/// | `name`: what calls find it by | `"billing.report"` | the function's name |
/// | `queue`: where its calls go | `"reports"` | `"default"` |
/// | `retries`: how often a failed attempt is repeated | `5` | not at all |
/// | `backoff`: the wait between attempts, growing | `"1s..5m"` | `"1s..10m"` |
/// | `timeout`: how long an attempt may run | `"30s"` | no limit |
/// | `priority`: 0 is the lowest | `5` | none |
/// | `expires`: how long after sending a call may start | `"1h"` | never |
/// | `ack`: after the work (`"late"`) or before it (`"early"`) | `"early"` | `"late"` |
///
/// Durations are numbers with a unit, `ms`, `s`, `m`, `h` or `d`: `"250ms"`, `"1.5s"`, `"1m30s"`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    let function = item.clone();
    let mut errors = Errors::default();
    let options = Options::parse(options.into(), &mut errors);
    let written = match Task::parse(item.into(), options) {
        Ok(task) if validate::signature(&task, &mut errors) => expand::task(&task),
        Ok(task) => expand::fallback(&task),
        Err(error) => error.into_compile_error(),
    };
    // The function goes first and untouched, so that a mistake in the attribute hides nothing; that it
    // owns its arguments is our rule, not its author's choice.
    let allowed = quote::quote!(#[allow(clippy::needless_pass_by_value)]);
    [
        allowed.into(),
        function,
        errors.into_tokens().into(),
        written.into(),
    ]
    .into_iter()
    .collect()
}
