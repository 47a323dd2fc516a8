//! A workflow as it was built, without its types: a tree of calls, chains and groups.

use crate::broker::Queue;
use crate::step::Step;

/// A part of a workflow.
#[derive(Debug)]
pub(crate) enum Node {
    /// One call.
    Call(Box<Step>),
    /// One after the other, each with the result of the one before.
    Chain(Vec<Self>),
    /// Side by side.
    Group(Members),
    /// `node`, and where workers of ours are that can do what is between its calls.
    Coordinated { node: Box<Self>, queue: Queue },
    /// `node`, and what is sent if it fails.
    Watched {
        node: Box<Self>,
        callback: Box<Self>,
    },
}

/// The members of a group.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) nodes: Vec<Node>,
    /// 0 where a failed member fails the whole; how often results and failures are wrapped otherwise.
    pub(crate) collected: u32,
}

/// A link of a flat chain: what is left of a node when chains in chains are one chain.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) item: Item,
    /// What is sent if it fails; indices into the callbacks of the whole workflow.
    pub(super) watchers: Vec<usize>,
}

#[derive(Debug)]
pub(super) enum Item {
    Call(Box<Step>),
    Group(Members),
}

impl Node {
    pub(super) fn call(step: Step) -> Self {
        Self::Call(Box::new(step))
    }

    pub(super) fn group(nodes: Vec<Self>) -> Self {
        Self::Group(Members {
            nodes,
            collected: 0,
        })
    }

    /// This and then `next`.
    pub(super) fn then(self, next: Self) -> Self {
        let mut nodes = match self {
            Self::Chain(nodes) => nodes,
            other => vec![other],
        };
        match next {
            Self::Chain(more) => nodes.extend(more),
            other => nodes.push(other),
        }
        Self::Chain(nodes)
    }

    /// This, and `callback` if it fails.
    pub(super) fn watched(self, callback: Self) -> Self {
        Self::Watched {
            node: Box::new(self),
            callback: Box::new(callback),
        }
    }

    /// This, coordinated by who takes from `queue` if there is one.
    pub(super) fn coordinated(self, queue: Option<Queue>) -> Self {
        match queue {
            Some(queue) => Self::Coordinated {
                node: Box::new(self),
                queue,
            },
            None => self,
        }
    }

    /// The group, if it is one, for its policy.
    pub(super) fn collected(self) -> Self {
        match self {
            Self::Group(mut members) => {
                members.collected += 1;
                Self::Group(members)
            }
            Self::Coordinated { node, queue } => node.collected().coordinated(Some(queue)),
            other => other,
        }
    }
}
