//! Workflows: calls one after the other ([`then`](Workflow::then)), side by side ([`group`]), and both, nested to
//! any depth. They are built here without I/O, frozen into what goes over the wire (`freeze.rs`), and sent.

mod builtin;
mod due;
mod freeze;
mod group;
mod launch;
mod node;
mod partial;
mod plan;

use std::fmt;
use std::marker::PhantomData;

use crate::app::App;
use crate::broker::Queue;
use crate::call::Call;
use crate::error::Result;
use crate::failure::Failure;
use crate::handle::Handle;
use node::Node;

pub(crate) use builtin::{EXPAND, get as builtin};
pub use group::{Group, Member, group};
pub use partial::{Composite, Grouped, Partial, Shape, Single};

/// Calls that follow each other, not yet sent; `T` is what the last one returns.
///
/// Each call goes to its own queue when the one before has succeeded, with that one's result as its first
/// argument. The state of it all is in the messages and the broker: no process has to live through it.
///
/// A call that fails for good fails the workflow: who awaits it is told, with the failed call's own
/// [`Failure`], and what would have followed is not run.
///
/// ```standalone_crate
/// # use garenne::{App, Worker, task};
/// #[task]
/// async fn fetch(url: String) -> String {
///     format!("<html>{url}</html>")
/// }
///
/// #[task]
/// async fn length(text: String, factor: u64) -> u64 {
///     text.len() as u64 * factor
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::in_memory();
/// # let worker = Worker::new(&app).queue("default", 1).spawn();
/// let twice = fetch::call("a.org".into()).then(length::partial(2));
/// assert_eq!(twice.send(&app).await?.await?, 36);
/// # worker.stop().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a workflow does nothing until it is sent: `.send(&app).await`"]
pub struct Workflow<T> {
    node: Node,
    coordinator: Option<Queue>,
    result: PhantomData<fn() -> T>,
}

impl<T> Workflow<T> {
    fn of(node: Node) -> Self {
        Self {
            node,
            coordinator: None,
            result: PhantomData,
        }
    }

    fn into_node(self) -> Node {
        self.node.coordinated(self.coordinator)
    }

    /// Goes on with `next`, which gets the result so far as its first argument.
    pub fn then<U, S: Shape>(self, next: Partial<T, U, S>) -> Workflow<U> {
        Workflow {
            node: self.node.then(next.into_node()),
            coordinator: self.coordinator,
            result: PhantomData,
        }
    }

    /// Sends `callback` with the [`Failure`], once, if what is built so far fails for good: whichever of its
    /// calls failed, or was cancelled, or expired. What is added later has callbacks of its own.
    ///
    /// ```standalone_crate
    /// # use garenne::{App, Failure, Worker, task};
    /// #[task]
    /// async fn divide(a: i64, b: i64) -> Result<i64, String> {
    ///     a.checked_div(b).ok_or_else(|| "division by zero".into())
    /// }
    ///
    /// #[task]
    /// async fn report(failure: Failure, to: String) {
    ///     println!("to {to}: {failure}");
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = App::in_memory();
    /// # let worker = Worker::new(&app).queue("default", 1).spawn();
    /// let ratio = divide::call(1, 0).then(divide::partial(2)).on_error(report::partial("ann".into()));
    /// let failure = ratio.send(&app).await?.await.unwrap_err();
    /// assert_eq!(failure.message, "division by zero");
    /// # worker.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_error<U, S: Shape>(mut self, callback: Partial<Failure, U, S>) -> Self {
        self.node = self.node.watched(callback.into_node());
        self
    }

    /// Lets the workers of this queue do what is between the steps: collect results for a foreign task, or
    /// fan out. Needed where none of the workflow's tasks is this binary's; otherwise a queue of one of them
    /// is chosen. Said of a part of a workflow, it is a choice beside those tasks' queues; said of the whole, it goes
    /// before them all.
    pub fn coordinate_on(mut self, queue: impl Into<Queue>) -> Self {
        self.coordinator = Some(queue.into());
        self
    }

    /// Sends what can run at once; resolves when the broker has confirmed that it is stored.
    ///
    /// The whole is limited: the message of a call carries all that is to follow it, and must not be larger
    /// than the app's `max_message_size`. A group that begins a workflow costs a message a member; one in the
    /// middle travels as a whole in the messages before it.
    ///
    /// # Errors
    /// As for [`Call::send`]; [`Error::Invalid`](crate::Error::Invalid) where a call goes through an exchange, where
    /// two calls have one id, where a group that something follows is too large or takes too long
    /// ([`Group::then`]), or where [`coordinate_on`](Self::coordinate_on) is missing. A group may be stored in part when there is
    /// an error: nothing waits for those members.
    pub async fn send(self, app: &App) -> Result<Handle<T>> {
        launch::send(self.node, self.coordinator, app).await
    }
}

impl<T> Call<T> {
    /// Goes on with `next`, which gets this call's result as its first argument.
    ///
    /// ```
    /// # use garenne::task;
    /// # #[task]
    /// # async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[task]
    /// # async fn multiply(a: i64, b: i64) -> i64 { a * b }
    /// let fifty = add::call(2, 3).then(multiply::partial(10));
    /// # drop(fifty);
    /// ```
    pub fn then<U, S: Shape>(self, next: Partial<T, U, S>) -> Workflow<U> {
        Workflow::from(self).then(next)
    }

    /// The same call as a step that goes without the result of the one before: Celery's immutable signature.
    pub fn ignoring_input<In>(self) -> Partial<In, T> {
        Partial::single(self.step)
    }

    /// Sends `callback` with the failure if the call fails for good. See [`Workflow::on_error`].
    pub fn on_error<U, S: Shape>(self, callback: Partial<Failure, U, S>) -> Workflow<T> {
        Workflow::from(self).on_error(callback)
    }
}

impl<T> From<Call<T>> for Workflow<T> {
    fn from(call: Call<T>) -> Self {
        Self::of(Node::call(call.step))
    }
}

impl<T> fmt::Debug for Workflow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workflow").finish_non_exhaustive()
    }
}
