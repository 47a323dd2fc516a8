//! Calls side by side.

use std::fmt;
use std::marker::PhantomData;

use super::Workflow;
use super::node::Node;
use super::partial::{Grouped, Partial, Shape};
use crate::app::App;
use crate::broker::Queue;
use crate::call::Call;
use crate::error::Result;
use crate::failure::Failure;
use crate::handle::Handle;

/// Runs calls, workflows or other groups side by side; their results come as a `Vec` in the members' order.
///
/// A group of [partials](Partial) is a partial itself: each member gets the same first argument.
///
/// ```standalone_crate
/// # use garenne::{App, Worker, group, task};
/// #[task]
/// async fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// #[task]
/// async fn sum(values: Vec<i64>) -> i64 {
///     values.iter().sum()
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::in_memory();
/// # let worker = Worker::new(&app).queue("default", 4).spawn();
/// let all = group((0..4).map(|n| add::call(n, n))).send(&app).await?;
/// assert_eq!(all.await?, [0, 2, 4, 6]);
///
/// let total = group([add::call(1, 2), add::call(3, 4)]).then(sum::partial());
/// let either = total.then(group([add::partial(100), add::partial(200)]));
/// assert_eq!(either.send(&app).await?.await?, [110, 210]);
/// # worker.stop().await?;
/// # Ok(())
/// # }
/// ```
pub fn group<M: Member>(members: impl IntoIterator<Item = M>) -> M::Group {
    M::group(members.into_iter().map(M::into_node).collect())
}

/// Calls side by side, made by [`group`].
///
/// The first member that fails for good fails the whole at once, with its reason; the others go on. With
/// [`collect_results`](Self::collect_results) all are waited for. A group without members has the result `[]`.
#[must_use = "a group does nothing until it is sent: `.send(&app).await`"]
pub struct Group<T> {
    node: Node,
    coordinator: Option<Queue>,
    result: PhantomData<fn() -> T>,
}

impl<T> Group<T> {
    fn of(node: Node) -> Self {
        Self {
            node,
            coordinator: None,
            result: PhantomData,
        }
    }

    pub(super) fn into_node(self) -> Node {
        self.node.coordinated(self.coordinator)
    }

    /// Goes on with `next` when all members are done: it gets their results, in the members' order, as its
    /// first argument. It is Celery's chord, with its state in the broker: `next` is sent exactly once,
    /// whatever happens to workers in the meantime.
    ///
    /// Results that have come wait for the others for 30 days since the last one came. So no member may be due
    /// 30 days or more after the group is sent, its delays added up: [`send`](Workflow::send) refuses that, and more
    /// than 50,000 members. `next` itself may be due at any time.
    pub fn then<U, S: Shape>(self, next: Partial<Vec<T>, U, S>) -> Workflow<U> {
        Workflow::from(self).then(next)
    }

    /// Collects failures beside results, instead of failing at the first failed member: awaited, or given to
    /// the next call, each member's outcome is a `Result`.
    pub fn collect_results(self) -> Group<Result<T, Failure>> {
        Group {
            node: self.node.collected(),
            coordinator: self.coordinator,
            result: PhantomData,
        }
    }

    /// Sends `callback` with the failure, once, if a member fails for good. See [`Workflow::on_error`].
    pub fn on_error<U, S: Shape>(self, callback: Partial<Failure, U, S>) -> Workflow<Vec<T>> {
        Workflow::from(self).on_error(callback)
    }

    /// Lets the workers of this queue do what is between the members, where the workflow has only foreign
    /// tasks. See [`Workflow::coordinate_on`].
    pub fn coordinate_on(mut self, queue: impl Into<Queue>) -> Self {
        self.coordinator = Some(queue.into());
        self
    }

    /// Sends all members; resolves when the broker has confirmed that they are stored.
    ///
    /// # Errors
    /// As for [`Workflow::send`].
    pub async fn send(self, app: &App) -> Result<Handle<Vec<T>>> {
        Workflow::from(self).send(app).await
    }
}

impl<T> From<Group<T>> for Workflow<Vec<T>> {
    fn from(group: Group<T>) -> Self {
        let workflow = Self::of(group.node);
        match group.coordinator {
            Some(queue) => workflow.coordinate_on(queue),
            None => workflow,
        }
    }
}

/// What can be a member of a [`group`]: calls, workflows, groups and partials.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a member of a group",
    label = "members are calls, workflows, other groups, or partials of them",
    note = "make a call of a task: `my_task::call(…)`"
)]
pub trait Member: sealed::Sealed {
    /// What a group of them is.
    type Group;

    #[doc(hidden)]
    #[allow(private_interfaces, reason = "only we implement it, and call it")]
    fn into_node(self) -> Node;

    #[doc(hidden)]
    #[allow(private_interfaces, reason = "only we implement it, and call it")]
    fn group(nodes: Vec<Node>) -> Self::Group;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! members {
    ($($member:ty => $group:ty, $into:expr;)+) => {
        $(impl<T> sealed::Sealed for $member {}
        #[diagnostic::do_not_recommend]
        impl<T> Member for $member {
            type Group = $group;

            #[allow(private_interfaces, reason = "only we implement it, and call it")]
            fn into_node(self) -> Node {
                $into(self)
            }

            #[allow(private_interfaces, reason = "only we implement it, and call it")]
            fn group(nodes: Vec<Node>) -> Self::Group {
                Group::of(Node::group(nodes))
            }
        })+
    };
}

members! {
    Call<T> => Group<T>, |call: Self| Node::call(call.step);
    Workflow<T> => Group<T>, Workflow::into_node;
    Group<T> => Group<Vec<T>>, Group::into_node;
}

impl<In, Out, S: Shape> sealed::Sealed for Partial<In, Out, S> {}
#[diagnostic::do_not_recommend]
impl<In, Out, S: Shape> Member for Partial<In, Out, S> {
    type Group = Partial<In, Vec<Out>, Grouped>;

    #[allow(private_interfaces, reason = "only we implement it, and call it")]
    fn into_node(self) -> Node {
        Self::into_node(self)
    }

    #[allow(private_interfaces, reason = "only we implement it, and call it")]
    fn group(nodes: Vec<Node>) -> Self::Group {
        Partial::grouped(nodes)
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}
