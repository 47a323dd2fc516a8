//! When the calls of a workflow are due at the earliest: the results of a group do not wait for ever. Pure.

use std::time::SystemTime;

use super::node::{Members, Node};
use crate::broker::JOIN_KEPT;
use crate::error::{Error, Result};
use crate::options::{CallOptions, Due};

impl Node {
    /// When it can be done at the earliest if it begins at `from`. Its results may be awaited by a join until then
    /// (`until`), or by one that opens where it begins (`is_joined`).
    ///
    /// # Errors
    /// [`Error::Invalid`] where something in it is due when its join is gone.
    pub(super) fn due(
        &self,
        from: SystemTime,
        until: Option<SystemTime>,
        is_joined: bool,
    ) -> Result<SystemTime> {
        match self {
            Self::Call(step) => {
                let due = step.options.due_from(from);
                match until.is_some_and(|until| due >= until) {
                    true => Err(too_late(&step.task)),
                    false => Ok(due),
                }
            }
            Self::Chain(nodes) => {
                let last = nodes.len().saturating_sub(1);
                let mut due = from;
                for (n, node) in nodes.iter().enumerate() {
                    due = node.due(due, until, is_joined || n < last)?;
                }
                Ok(due)
            }
            Self::Group(Members { nodes, .. }) => {
                let opened = is_joined.then(|| from.checked_add(JOIN_KEPT)).flatten();
                let until = until.or(opened);
                let mut due = from;
                for node in nodes {
                    due = due.max(node.due(from, until, until.is_some())?);
                }
                Ok(due)
            }
            Self::Coordinated { node, .. } => node.due(from, until, is_joined),
            Self::Watched { node, callback } => {
                callback.due(from, None, false)?;
                node.due(from, until, true)
            }
        }
    }
}

impl CallOptions {
    /// When the call is due whose turn comes at `from`.
    fn due_from(&self, from: SystemTime) -> SystemTime {
        match self.due {
            Due::Now => from,
            Due::In(countdown) => from.checked_add(countdown).unwrap_or(from),
            Due::At(eta) => eta.max(from),
        }
    }
}

fn too_late(task: &str) -> Error {
    let days = JOIN_KEPT.as_secs() / (24 * 3600);
    let reason = format!(
        "it is due {days} days or more after the group that it is in is sent, whose results are kept no longer than \
         that: give it no such delay, or leave it out and send it by itself"
    );
    Error::invalid("delay in a workflow of task", task, reason)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::step::Step;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn call(task: &str, due: Due) -> Node {
        let mut step = Step::new(task.into(), "q");
        step.options.due = due;
        Node::call(step)
    }

    fn after(days: u32) -> Node {
        call(&format!("after_{days}"), Due::In(days * DAY))
    }

    fn refused(node: &Node) -> Option<String> {
        node.due(NOW, None, false)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn what_is_due_when_its_join_is_gone_is_refused() {
        let sum = || call("sum", Due::Now);
        let chord = |member| Node::group(vec![after(1), member]).then(sum());
        for (member, task) in [
            (after(30), "after_30"),
            (after(20).then(after(11)), "after_11"),
            (call("eta", Due::At(NOW + 31 * DAY)), "eta"),
            (chord(after(20)).then(after(10)), "after_10"),
            (after(1).then(Node::group(vec![after(29)])), "after_29"),
        ] {
            let error = refused(&chord(member)).expect("refused");
            assert!(error.contains(&format!("`{task}`")), "{error}");
            assert!(error.contains("30 days"), "{error}");
        }
        let watched = Node::group(vec![after(40)]).watched(sum());
        assert!(refused(&watched).expect("refused").contains("after_40"));
    }

    #[test]
    fn what_no_join_waits_for_may_be_as_late_as_it_likes() {
        let sum = || call("sum", Due::Now);
        for node in [
            after(400).then(after(400)),
            Node::group(vec![after(400)]),
            after(400).then(Node::group(vec![after(29)])).then(sum()),
            Node::group(vec![after(29)]).then(after(400)),
            after(40).then(Node::group(vec![call("eta", Due::At(NOW + 41 * DAY))]).then(sum())),
            call("a", Due::At(NOW + 29 * DAY)).then(call("b", Due::At(NOW + 29 * DAY))),
        ] {
            assert_eq!(refused(&node), None);
        }
        let etas = || call("eta", Due::At(NOW + 20 * DAY));
        let both = Node::group(vec![etas().then(etas())]).then(sum());
        assert_eq!(refused(&both), None);
    }
}
