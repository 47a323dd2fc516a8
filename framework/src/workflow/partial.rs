//! A call that lacks its first argument, or several of them in order: what a workflow goes on with.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value as Json;

use super::node::Node;
use super::{Group, Workflow};
use crate::broker::Queue;
use crate::call::CallBuilder;
use crate::error::Result;
use crate::failure::Failure;
use crate::options::{CallOptions, Due};
use crate::retry::Backoff;
use crate::step::{Step, option_setters};
use crate::task::Ack;

/// What a workflow goes on with: a call, or several, that lack an `In` for their first argument, and come to
/// an `Out`.
///
/// Made by `partial(…)` on the task's name, which takes all arguments but the first, or by
/// [`Partial::named`] where the function is elsewhere. A partial of one call ([`Single`]) has the options of a
/// [`Call`](crate::Call).
///
/// ```standalone_crate
/// # use garenne::{App, Worker, SECOND, task};
/// #[task]
/// async fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// #[task]
/// async fn describe(sum: i64, unit: String) -> String {
///     format!("{sum} {unit}")
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::in_memory();
/// # let worker = Worker::new(&app).queue("default", 1).queue("slow", 1).spawn();
/// let add_ten = add::partial(10).queue("slow").retries(3);
/// let metres = add_ten.then(describe::partial("metres".into()));
/// assert_eq!(add::call(2, 3).then(metres).send(&app).await?.await?, "15 metres");
/// # worker.stop().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a partial call does nothing by itself: give it to `.then(…)`"]
pub struct Partial<In, Out, Shape = Single> {
    shape: Shape,
    types: PhantomData<fn(In) -> Out>,
}

/// The shape of a partial of one call, which has a call's options.
pub struct Single(Step);

/// The shape of a partial of several calls.
pub struct Composite(Node);

/// The shape of a partial that is a group, each of whose members gets the same first argument.
pub struct Grouped(Node);

/// How many calls a [`Partial`] stands for: [`Single`], [`Composite`] or [`Grouped`].
pub trait Shape: sealed::Sealed + Send + 'static {}

mod sealed {
    use super::Node;

    pub trait Sealed {
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "only we implement it, and call it")]
        fn into_node(self) -> Node;
    }
}

macro_rules! shapes {
    ($($shape:ident => $into:expr;)+) => {
        $(impl sealed::Sealed for $shape {
            #[allow(private_interfaces, reason = "only we implement it, and call it")]
            fn into_node(self) -> Node {
                $into(self.0)
            }
        }
        impl Shape for $shape {}
        impl fmt::Debug for $shape {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($shape))
            }
        })+
    };
}

shapes! {
    Single => Node::call;
    Composite => std::convert::identity;
    Grouped => std::convert::identity;
}

impl<In, Out> Partial<In, Out> {
    pub(crate) fn single(step: Step) -> Self {
        Self::of(Single(step))
    }

    /// A partial call of a task whose function this binary does not have: another service's, or a Python
    /// one. Goes to the queue `default` unless [`queue`](Self::queue) says otherwise; see
    /// [`Call::named`](crate::Call::named).
    ///
    /// ```
    /// # use garenne::{Partial, task};
    /// # #[task]
    /// # async fn add(a: i64, b: i64) -> i64 { a + b }
    /// let scaled = add::call(2, 3).then(Partial::<i64, i64>::named("proj.tasks.scale").queue("celery"));
    /// # drop(scaled);
    /// ```
    pub fn named(task: impl Into<String>) -> Self {
        let mut step = Step::named(task.into());
        step.takes_input = true;
        Self::single(step)
    }

    /// Adds an argument by position, behind the one that it lacks.
    ///
    /// # Errors
    /// [`Error::Encode`](crate::Error::Encode).
    pub fn arg<A: Serialize>(mut self, value: A) -> Result<Self> {
        self.shape.0.arg(&value)?;
        Ok(self)
    }

    /// Adds an argument by name.
    ///
    /// # Errors
    /// [`Error::Encode`](crate::Error::Encode).
    pub fn kwarg<A: Serialize>(mut self, name: impl Into<String>, value: A) -> Result<Self> {
        self.shape.0.kwarg(name.into(), &value)?;
        Ok(self)
    }

    option_setters!();

    fn options_mut(&mut self) -> &mut CallOptions {
        &mut self.shape.0.options
    }
}

impl<In, Out, S> Partial<In, Out, S> {
    fn of(shape: S) -> Self {
        Self {
            shape,
            types: PhantomData,
        }
    }
}

impl<In, Out, S: Shape> Partial<In, Out, S> {
    pub(super) fn into_node(self) -> Node {
        self.shape.into_node()
    }

    /// Goes on with `next`, which gets the result of this as its first argument.
    pub fn then<U, S2: Shape>(self, next: Partial<Out, U, S2>) -> Partial<In, U, Composite> {
        Partial::of(Composite(self.into_node().then(next.into_node())))
    }

    /// Sends `callback` with the failure if this part of the workflow fails for good. See
    /// [`Workflow::on_error`].
    pub fn on_error<U, S2: Shape>(
        self,
        callback: Partial<Failure, U, S2>,
    ) -> Partial<In, Out, Composite> {
        Partial::of(Composite(self.into_node().watched(callback.into_node())))
    }
}

impl<In, Out> Partial<In, Vec<Out>, Grouped> {
    pub(super) fn grouped(nodes: Vec<Node>) -> Self {
        Self::of(Grouped(Node::group(nodes)))
    }

    /// Collects failures beside results, instead of failing at the first failed member. See
    /// [`Group::collect_results`].
    pub fn collect_results(self) -> Partial<In, Vec<Result<Out, Failure>>, Grouped> {
        Partial::of(Grouped(self.shape.0.collected()))
    }
}

impl CallBuilder {
    /// The call without its first argument.
    pub fn partial<In, T>(mut self) -> Partial<In, T> {
        self.step.takes_input = true;
        Partial::single(self.step)
    }
}

macro_rules! into_composite {
    ($($shape:ident)+) => {
        $(impl<In, Out> From<Partial<In, Out, $shape>> for Partial<In, Out, Composite> {
            /// The same under the type that all partials can have, to stand with others in a list.
            fn from(partial: Partial<In, Out, $shape>) -> Self {
                Partial::of(Composite(partial.into_node()))
            }
        })+
    };
}

into_composite! { Single Grouped }

impl<T> Workflow<T> {
    /// The same workflow as a part of another one that goes without the result of what is before it.
    pub fn ignoring_input<In>(self) -> Partial<In, T, Composite> {
        Partial::of(Composite(self.into_node()))
    }
}

impl<T> Group<T> {
    /// The same group as a part of a workflow that goes without the result of what is before it.
    pub fn ignoring_input<In>(self) -> Partial<In, Vec<T>, Grouped> {
        Partial::of(Grouped(self.into_node()))
    }
}

impl<In, Out, S: fmt::Debug> fmt::Debug for Partial<In, Out, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Partial").field(&self.shape).finish()
    }
}
