//! Where a call came from: the call whose task sent it, the one that began it all, and by when the whole is to
//! be done. Children inherit it.

use std::time::SystemTime;

use super::{Message, format_time, header};

/// Longest id in bytes that is passed on.
const ID_LIMIT: usize = 255;

/// What a call that is sent from inside a task takes over from the task's own call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The call whose task sent it.
    pub parent_id: String,
    /// The call that began it all.
    pub root_id: String,
    /// By when all of it is to be done.
    pub deadline: Option<SystemTime>,
}

impl Message {
    /// The call that began it all: this one, unless a task has sent it.
    #[must_use]
    pub fn root_id(&self) -> &str {
        let root = self.text("root_id");
        root.filter(|root| !root.is_empty() && root.len() <= ID_LIMIT)
            .unwrap_or(&self.id)
    }

    /// The call whose task sent this one, if a task did.
    #[must_use]
    pub fn parent_id(&self) -> Option<&str> {
        self.text("parent_id")
    }

    /// By when the call is to be done, with its retries and all that its tasks send.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        self.time(header::DEADLINE)
    }

    /// After which time the call is not started any more: its expiry or its deadline, whichever is nearer.
    #[must_use]
    pub fn last_start(&self) -> Option<SystemTime> {
        nearer(self.expires(), self.deadline())
    }

    /// What this call's children take over.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin {
            parent_id: self.id.clone(),
            root_id: self.root_id().to_owned(),
            deadline: self.deadline(),
        }
    }

    /// Makes this call a child of `origin`. Of the two deadlines the nearer one counts.
    pub fn descend_from(&mut self, origin: &Origin) {
        self.set("parent_id", origin.parent_id.as_str());
        self.set("root_id", origin.root_id.as_str());
        if let Some(deadline) = nearer(self.deadline(), origin.deadline) {
            self.set_deadline(deadline);
        }
    }

    /// Sets by when the call is to be done. It expires then, too, which Python's workers also look at.
    pub fn set_deadline(&mut self, deadline: SystemTime) {
        self.set(header::DEADLINE, format_time(deadline));
        if self.expires().is_none_or(|expires| expires > deadline) {
            self.headers.remove(header::EXPIRES);
            self.set("expires", format_time(deadline));
        }
    }
}

fn nearer(a: Option<SystemTime>, b: Option<SystemTime>) -> Option<SystemTime> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Arguments;
    use super::super::tests::NOW;
    use super::*;

    fn call(id: &str) -> Message {
        Message::new(id.into(), "t", &Arguments::default())
    }

    #[test]
    fn children_name_their_parent_and_the_root_of_all() {
        let first = call("first");
        assert_eq!((first.root_id(), first.parent_id()), ("first", None));
        let mut second = call("second");
        second.descend_from(&first.origin());
        let mut third = call("third");
        third.descend_from(&second.origin());
        assert_eq!(
            (third.root_id(), third.parent_id()),
            ("first", Some("second"))
        );
        assert_eq!(third.deadline(), None);
        let mut foreign = call("foreign");
        foreign.set("root_id", "x".repeat(1000));
        assert_eq!(foreign.root_id(), "foreign", "too long to be passed on");
    }

    #[test]
    fn of_two_deadlines_the_nearer_one_counts() {
        let second = Duration::from_secs(1);
        let mut parent = call("parent");
        parent.set_deadline(NOW + 10 * second);
        assert_eq!(parent.expires(), Some(NOW + 10 * second));
        for (own, expected) in [(None, 10), (Some(5), 5), (Some(20), 10)] {
            let mut child = call("child");
            if let Some(own) = own {
                child.set_deadline(NOW + own * second);
            }
            child.descend_from(&parent.origin());
            assert_eq!(child.deadline(), Some(NOW + expected * second));
            assert_eq!(child.last_start(), child.deadline());
        }
        let mut hasty = call("hasty");
        hasty.set("expires", format_time(NOW + second));
        hasty.descend_from(&parent.origin());
        assert_eq!(hasty.last_start(), Some(NOW + second));
    }
}
