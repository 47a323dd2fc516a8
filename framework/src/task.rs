//! A task: its definition as `#[task]` writes it, and how one invocation gets its arguments and what it
//! borrows.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::broker::BoxFuture;
use crate::context::Context;
use crate::error::TaskError;
use crate::hashed::HashedMap;
use crate::message::{Arguments, is_deeper};
use crate::retry::Backoff;

/// How deep a result may be nested: no more than serde reads again.
const RESULT_DEPTH_LIMIT: usize = 127;

/// A function that was annotated with `#[task]`.
///
/// The attribute implements it for the struct that it adds beside the function, which
/// [`Worker::register`](crate::Worker::register) takes.
pub trait Task: 'static {
    /// All that a worker needs to know of it.
    const DEFINITION: &'static Definition;
}

/// When a delivery is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Ack {
    /// After the work: a worker's death repeats the work, and never loses it.
    #[default]
    Late,
    /// Before the work: a worker's death, or that of its connection in that moment, loses the work and never repeats it.
    Early,
}

impl Ack {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Early => "early",
        }
    }
}

/// What `#[task(…)]` says of every call of a task, unless the call says otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TaskOptions {
    /// The queue that its calls go to.
    pub queue: &'static str,
    /// How many queues of the broker that one is divided into: see [`Queue::shards`](crate::Queue::shards).
    pub shards: u32,
    /// How often a failed attempt is repeated; `None`: not at all, but three times where the task asks
    /// for it with [`TaskError::retry_in`].
    pub retries: Option<u32>,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// How long one attempt may run.
    pub timeout: Option<Duration>,
    /// The calls' priority.
    pub priority: Option<u8>,
    /// How long after sending a call may still be started.
    pub expires: Option<Duration>,
    /// When deliveries are acknowledged.
    pub ack: Ack,
}

impl TaskOptions {
    /// What a bare `#[task]` means.
    pub const DEFAULT: Self = Self {
        queue: "default",
        shards: 1,
        retries: None,
        backoff: Backoff::DEFAULT,
        timeout: None,
        priority: None,
        expires: None,
        ack: Ack::Late,
    };
}

/// A task as the worker sees it. Written by `#[task]`.
pub struct Definition {
    /// The name under which calls find it.
    pub name: &'static str,
    /// The source file it stands in.
    pub file: &'static str,
    /// The line in that file.
    pub line: u32,
    /// Its options.
    pub options: TaskOptions,
    /// What it borrows from the worker.
    pub borrows: fn() -> Vec<Borrow>,
    /// How it is run.
    pub run: Run,
}

impl Definition {
    pub(crate) fn location(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition")
            .field("name", &self.name)
            .field("location", &self.location())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The body of a task.
#[derive(Clone, Copy)]
pub enum Run {
    /// An `async fn`, on the runtime.
    Async(fn(Invocation) -> BoxFuture<'static, Outcome>),
    /// A plain `fn`, on a thread of its own.
    Blocking(fn(Invocation) -> Outcome),
}

/// The encoded result of one attempt, or why there is none.
pub type Outcome = std::result::Result<Box<RawValue>, RunError>;

/// Why an attempt has no result.
#[derive(Debug)]
pub enum RunError {
    /// The message's arguments are not those of the function: no retry would mend it.
    Arguments(String),
    /// The function returned an error.
    Task(TaskError),
    /// The function's result could not be encoded: no retry would mend it.
    Result(serde_json::Error),
}

impl From<TaskError> for RunError {
    fn from(error: TaskError) -> Self {
        Self::Task(error)
    }
}

/// One type that a task borrows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Borrow {
    id: TypeId,
    pub(crate) name: &'static str,
}

impl Borrow {
    /// A `&T` among a task's parameters.
    #[must_use]
    pub fn of<T: Lent>() -> Self {
        Self {
            id: TypeId::of::<T>(),
            name: std::any::type_name::<T>(),
        }
    }
}

/// What can travel in a message: an argument, or a result.
///
/// It travels as JSON, and a finite float arrives bit for bit. JSON has no other: [`f64::NAN`] and [`f64::INFINITY`] become
/// `null`, which an `Option<f64>` takes for `None` and an `f64` refuses.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a task's argument or result",
    label = "does not travel in a message",
    note = "it must own its data, be `Send`, and implement `serde::Serialize` and `serde::Deserialize`: \
            add `#[derive(serde::Serialize, serde::Deserialize)]` to `{Self}`",
    note = "if the worker is to lend it, borrow it: `&{Self}`"
)]
pub trait Value: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Value for T {}

/// An owned parameter of a task: how its argument is encoded in a call, and decoded in a worker.
///
/// Calls and workers both go through it so that a type that is no [`Value`] is reported once.
#[derive(Debug)]
pub struct Parameter<T> {
    position: usize,
    pub(crate) name: &'static str,
    optional: bool,
    pub(crate) encode: fn(&T) -> serde_json::Result<Box<RawValue>>,
    decode: fn(&str) -> serde_json::Result<T>,
}

impl<T> Parameter<T> {
    /// The parameter at `position`; its argument may be missing if it is `optional`.
    #[must_use]
    pub fn new(position: usize, name: &'static str, optional: bool) -> Self
    where
        T: Value,
    {
        Self {
            position,
            name,
            optional,
            encode: serde_json::value::to_raw_value,
            decode: |text| serde_json::from_str(text),
        }
    }
}

/// What a worker can lend to a task.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be lent to tasks",
    label = "must be `Send + Sync + 'static`",
    note = "all slots of a worker share it"
)]
pub trait Lent: Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Send + Sync + 'static> Lent for T {}

/// An error that a task may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a task's error",
    label = "must be displayable",
    note = "implement `std::fmt::Display` for `{Self}`, or return `garenne::TaskError`"
)]
pub trait Fails: Into<TaskError> {}

#[diagnostic::do_not_recommend]
impl<E: Into<TaskError>> Fails for E {}

/// The return type of a task that may fail.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Result`",
    label = "its name ends in `Result`, so it must be one",
    note = "a type whose name ends in `Result` must be `Result<T, E>` or an alias of it"
)]
pub trait Fallible {
    /// What it holds when it went well.
    type Value;
    /// What it holds when it did not.
    type Error;
    /// As a result that the worker understands.
    fn into_result(self) -> std::result::Result<Self::Value, Self::Error>;
}

#[diagnostic::do_not_recommend]
impl<T, E> Fallible for std::result::Result<T, E> {
    type Value = T;
    type Error = E;
    fn into_result(self) -> Self {
        self
    }
}

/// What a worker lends to its tasks, one value for each type.
#[derive(Clone, Default)]
pub struct State(HashedMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl State {
    /// Adds a value; `false` if there was one of its type already.
    pub(crate) fn insert<T: Lent>(&mut self, value: T) -> bool {
        self.0.insert(TypeId::of::<T>(), Arc::new(value)).is_none()
    }

    pub(crate) fn has(&self, borrow: Borrow) -> bool {
        borrow.id == TypeId::of::<Context>() || self.0.contains_key(&borrow.id)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State({} types)", self.0.len())
    }
}

/// One attempt at a call: gives the task's body its arguments and what it borrows.
#[derive(Debug)]
pub struct Invocation {
    positional: Vec<Option<Box<RawValue>>>,
    keyword: std::collections::BTreeMap<String, Box<RawValue>>,
    state: Arc<State>,
    context: Context,
}

impl Invocation {
    pub(crate) fn new(arguments: Arguments, state: Arc<State>, context: Context) -> Self {
        let positional = arguments.args.into_iter().map(Some).collect();
        Self {
            positional,
            keyword: arguments.kwargs,
            state,
            context,
        }
    }

    /// Decodes a parameter's argument, which may have come by position or by name; missing, it is `None`
    /// if the parameter is optional.
    ///
    /// # Errors
    /// [`RunError::Arguments`] naming the argument.
    pub fn argument<T>(&mut self, parameter: &Parameter<T>) -> std::result::Result<T, RunError> {
        let Parameter {
            position,
            name,
            optional,
            decode,
            ..
        } = *parameter;
        let wrong = |reason: String| RunError::Arguments(format!("argument `{name}`: {reason}"));
        let by_position = self.positional.get_mut(position).and_then(Option::take);
        let by_name = self.keyword.remove(name);
        let raw = match (by_position, by_name) {
            (Some(_), Some(_)) => return Err(wrong("given both by position and by name".into())),
            (Some(raw), None) | (None, Some(raw)) => raw,
            (None, None) if optional => {
                RawValue::from_string("null".into()).map_err(|e| wrong(e.to_string()))?
            }
            (None, None) => return Err(wrong("missing".into())),
        };
        decode(raw.get()).map_err(|e| wrong(e.to_string()))
    }

    /// Refuses arguments that the function does not have. Called after the last
    /// [`argument`](Self::argument).
    ///
    /// # Errors
    /// [`RunError::Arguments`] naming the surplus.
    pub fn no_more(&self) -> std::result::Result<(), RunError> {
        let surplus = self
            .positional
            .iter()
            .filter(|argument| argument.is_some())
            .count();
        if surplus > 0 {
            let wanted = self.positional.len() - surplus;
            return Err(RunError::Arguments(format!(
                "{} positional arguments given, {wanted} wanted",
                self.positional.len()
            )));
        }
        match self.keyword.keys().next() {
            Some(name) => Err(RunError::Arguments(format!("unknown argument `{name}`"))),
            None => Ok(()),
        }
    }

    /// What a `&T` parameter gets.
    ///
    /// # Errors
    /// Never in a worker, which checks at its start that all that its tasks borrow is there.
    pub fn lend<T: Lent>(&self) -> std::result::Result<Arc<T>, RunError> {
        let wanted = TypeId::of::<T>();
        let lent: Option<Arc<dyn Any + Send + Sync>> = if wanted == TypeId::of::<Context>() {
            Some(Arc::new(self.context.clone()))
        } else {
            self.state.0.get(&wanted).cloned()
        };
        lent.and_then(|lent| lent.downcast().ok()).ok_or_else(|| {
            RunError::Arguments(format!(
                "the worker has no state `{}`",
                std::any::type_name::<T>()
            ))
        })
    }
}

/// Encodes what a task returned.
///
/// # Errors
/// [`RunError::Result`].
pub fn encode<T: Value>(value: &T) -> Outcome {
    let encoded = serde_json::value::to_raw_value(value).map_err(RunError::Result)?;
    // It may become another call's argument.
    match is_deeper(encoded.get().as_bytes(), RESULT_DEPTH_LIMIT) {
        true => Err(RunError::Result(serde::ser::Error::custom(format_args!(
            "it is nested more than {RESULT_DEPTH_LIMIT} deep"
        )))),
        false => Ok(encoded),
    }
}

/// The outcome of a task that returned an error.
///
/// # Errors
/// Always.
pub fn failed<E: Fails>(error: E) -> Outcome {
    Err(RunError::Task(error.into()))
}
