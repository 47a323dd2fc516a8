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
/// | `shards`: how many queues of the broker that one is divided into | `4` | `1` |
/// | `retries`: how often a failed attempt is repeated | `5` | not at all |
/// | `backoff`: the wait between attempts, growing | `"1s..5m"` | `"1s..10m"` |
/// | `timeout`: how long an attempt may run | `"30s"` | no limit |
/// | `priority`: 0 is the lowest | `5` | none |
/// | `expires`: how long after sending a call may start | `"1h"` | never |
/// | `ack`: after the work (`"late"`) or before it (`"early"`) | `"early"` | `"late"` |
///
/// Durations are numbers with a unit, `ms`, `s`, `m`, `h` or `d`: `"250ms"`, `"1.5s"`, `"1m30s"`.
///
/// # Tasks that run elsewhere
///
/// With `extern`, a signature without a body declares a task of another service's, or of Python's Celery:
///
/// ```rust,ignore
/// #[task(name = "proj.tasks.add", queue = "celery", extern)]
/// async fn add(x: i64, y: i64) -> i64;
///
/// let five = add::call(2, 3).send(&app).await?.await?;
/// let chain = add::call(2, 3).then(add::partial(10));
/// ```
///
/// - It must say its `name`, and may say what the sender does: `queue`, `shards`, `priority` and `expires`. The other
///   options are the worker's, which does not see the declaration. What a call says of itself goes with it: Celery
///   heeds its `timeout` (as the hard time limit) and knows nothing of `retries`, `backoff` and `ack`.
/// - On RabbitMQ its queue must exist, or be declared (`app.declare`): only its workers know how they want it.
/// - Its arguments travel by position. What Python takes by keyword only is left out of the signature, and added
///   by `.kwarg("name", value)?`.
/// - `async` or not makes no difference. What it returns is what the result is read as; of `Result<T, E>` that is
///   `T`, as for any task, so that the signature of a Rust task can be copied. An exception, or a Rust task's
///   `Err`, arrives as a `Failure`, with its type, message and traceback: never as `E`.
/// - There is no function: only `call` and `partial`. Workers of this binary do not know the task, also not in the
///   tests' `drain`. If the same program holds the task itself, as when client and worker share a crate, both may
///   be linked: only the task itself is registered.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut function = item.clone();
    let mut errors = Errors::default();
    let options = Options::parse(options.into(), &mut errors);
    let (written, has_function) = match Task::parse(item.into(), options) {
        Ok(task) => {
            let is_sound = validate::signature(&task, &mut errors);
            let written = match (is_sound, &task.options.elsewhere) {
                (false, _) => expand::fallback(&task),
                (true, None) => expand::task(&task),
                (true, Some(_)) => expand::declaration(&task),
            };
            (written, !task.body.is_empty())
        }
        Err(error) => (error.into_compile_error(), true),
    };
    // The function goes first and untouched, so that a mistake in the attribute hides nothing; that it
    // owns its arguments is our rule, not its author's choice.
    let mut allowed = quote::quote!(#[allow(clippy::needless_pass_by_value)]);
    if !has_function {
        (allowed, function) = Default::default();
    }
    [
        TokenStream::from(allowed),
        function,
        errors.into_tokens().into(),
        written.into(),
    ]
    .into_iter()
    .collect()
}
