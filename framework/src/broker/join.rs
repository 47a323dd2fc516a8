//! A join: where the results of several calls meet. When its last part has come, its body is published,
//! exactly once. Pure.

use std::time::Duration;

use super::{Publish, Route};
use crate::error::{Error, Result};
use crate::message::Message;

/// How long a join is kept that nobody uses: as long as a dead letter.
pub(crate) const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the name of a join contains, behind the prefix of its app.
const MARK: &str = "garenne.join.";
/// The most parts of a join: a consumer of RabbitMQ's holds no more at once, and some may come twice.
const MOST_PARTS: usize = 50_000;

/// A meeting point: when as many parts as it waits for have come, its body is published.
///
/// A part is published to [`Route::Join`]. Parts with the same `correlation_id` (or, without one, the same
/// `id`) are one: the first stays. The parts can be read, also after the body has gone, until the join is
/// closed, or until nobody has used it for 30 days.
#[derive(Debug, Clone)]
pub struct Join {
    /// A name of its own, with `garenne.join.` behind the app's prefix.
    pub name: String,
    /// How many parts it waits for, at most 50,000.
    pub parts: u32,
    /// What is published when they are there, to a [`Route::Queue`]. Its delay counts from then on; if its
    /// queue has been deleted by then, it is declared again.
    pub body: Publish,
}

impl Join {
    /// The queue that the body goes to.
    pub(crate) fn queue(&self) -> Result<&str> {
        super::queue::validate_name("join name", &self.name)?;
        if !is_join(&self.name) {
            let reason = format!("it does not contain `{MARK}`");
            return Err(Error::invalid("join name", &self.name, reason));
        }
        check_parts(self.parts as usize)?;
        match &self.body.route {
            Route::Queue(queue) => Ok(queue),
            route => Err(Error::Refused {
                what: format!("join `{}`", self.name),
                reason: format!("its body must go to a queue, not to {route}"),
            }),
        }
    }
}

/// Refuses more parts than a join can have.
pub(crate) fn check_parts(parts: usize) -> Result<()> {
    match parts > MOST_PARTS {
        true => {
            let reason = format!("more than {MOST_PARTS} results cannot meet");
            Err(Error::invalid("number of parts", parts.to_string(), reason))
        }
        false => Ok(()),
    }
}

/// Whether a join may have this name. What a hostile message names is not meant otherwise.
pub(crate) fn is_join(name: &str) -> bool {
    name.contains(MARK) && super::queue::validate_name("join name", name).is_ok()
}

/// Says that a message has named something for a join that is none.
pub(crate) fn warn_of_hostile(name: &str) {
    tracing::warn!(join = name, "nothing is sent to what is no join");
}

/// Notes that a part has found no join: it is closed as soon as a member has failed, and the others end later.
pub(crate) fn note_missing(join: &str) {
    tracing::debug!(join, "a part came after its join was closed");
}

/// What tells a part from the others of its join.
pub(crate) fn part_key(part: &Message) -> &str {
    let correlation = part.correlation_id.as_deref();
    correlation.filter(|id| !id.is_empty()).unwrap_or(&part.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(name: &str, route: Route) -> Join {
        Join {
            name: name.to_owned(),
            parts: 1,
            body: Publish {
                route,
                message: Message::default(),
                delay: Duration::ZERO,
                deadline: Duration::ZERO,
            },
        }
    }

    #[test]
    fn a_join_has_a_name_of_its_kind_and_a_queue() {
        let queue = || Route::Queue("q".into());
        assert_eq!(join("app.garenne.join.1", queue()).queue().ok(), Some("q"));
        for name in [
            "",
            "q",
            "garenne.joint",
            "garenne.join.\n",
            &"x".repeat(300),
        ] {
            assert!(join(name, queue()).queue().is_err(), "{name:?}");
        }
        let mut large = join("garenne.join.1", queue());
        large.parts = 50_001;
        assert!(large.queue().is_err());
        let reply = Route::Reply("garenne.reply.1".into());
        assert!(join("garenne.join.1", reply).queue().is_err());
    }

    #[test]
    fn a_part_is_known_by_what_it_answers() {
        let mut part = Message {
            id: "own".into(),
            correlation_id: Some("member".into()),
            ..Message::default()
        };
        assert_eq!(part_key(&part), "member");
        for none in [None, Some(String::new())] {
            part.correlation_id = none;
            assert_eq!(part_key(&part), "own");
        }
    }
}
