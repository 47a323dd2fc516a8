//! What a message says for readers that are not ours: Celery's workers and monitors. A worker of ours knows it, or reads
//! it in the body.

use std::time::SystemTime;

use super::{Arguments, Message, format_time};

/// Celery's header for the language of a message's sender.
const LANGUAGE: &str = "lang";
/// What ours put there.
const OURS: &str = "rust";

impl Message {
    /// Says in headers what Celery's workers and their monitors would not find elsewhere, of a call with these
    /// arguments that one of them may run.
    pub(crate) fn spell_out(&mut self, arguments: &Arguments) {
        let (args, kwargs) = arguments.repr();
        self.set("argsrepr", args);
        if let Some(kwargs) = kwargs {
            self.set("kwargsrepr", kwargs);
        }
        self.set("root_id", self.root_id().to_owned());
        self.set(LANGUAGE, OURS);
    }

    /// Whether its sender says that it is one of ours.
    #[must_use]
    pub(crate) fn is_of_ours(&self) -> bool {
        self.text(LANGUAGE) == Some(OURS)
    }

    /// Makes the call due at `eta`, until when the broker keeps it. A worker is told that by its language, for Celery
    /// leaves the waiting to whoever has taken the call.
    pub(crate) fn set_eta(&mut self, eta: SystemTime) {
        self.set("eta", format_time(eta));
        if !self.headers.contains_key(LANGUAGE) {
            self.set(LANGUAGE, OURS);
        }
    }

    /// What monitors show of the arguments by position, and of those by name: what the sender says of them, or else
    /// what the body does; nothing, where that cannot be read.
    pub(crate) fn repr(&self) -> (String, String) {
        let none = || "{}".to_owned();
        if let Some(args) = self.text("argsrepr") {
            let kwargs = self.text("kwargsrepr").map(str::to_owned);
            // Ours say nothing where there are none.
            let kwargs = kwargs.or_else(|| self.is_of_ours().then(none));
            return (args.to_owned(), kwargs.unwrap_or_default());
        }
        let Ok(arguments) = Arguments::decode(self) else {
            return Default::default();
        };
        let (args, kwargs) = arguments.repr();
        (args, kwargs.unwrap_or_else(none))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::tests::{raw, with_body};
    use super::*;

    #[test]
    fn what_a_worker_of_ours_knows_is_said_only_to_others() {
        let arguments = Arguments {
            args: vec![raw("1")],
            ..Arguments::default()
        };
        let mut message = Message::new("id-1".into(), "t", &arguments);
        let names =
            |message: &Message| -> Vec<String> { message.headers.keys().cloned().collect() };
        assert_eq!(names(&message), ["id", "task"]);
        assert_eq!(message.repr(), ("(1,)".into(), "{}".into()));
        assert_eq!(message.root_id(), "id-1");

        message.spell_out(&arguments);
        assert_eq!(
            names(&message),
            ["argsrepr", "id", "lang", "root_id", "task"]
        );
        assert_eq!(message.repr(), ("(1,)".into(), "{}".into()));
        assert_eq!(message.text("root_id"), Some("id-1"));
        // What the sender says counts: it may hide a secret.
        message.set("argsrepr", "(…,)");
        assert_eq!(message.repr(), ("(…,)".into(), "{}".into()));
        // Python says both.
        message.set("lang", "py");
        assert_eq!(message.repr(), ("(…,)".into(), String::new()));

        let illegible = with_body("[[");
        assert_eq!(illegible.repr(), (String::new(), String::new()));
    }

    #[test]
    fn what_the_broker_keeps_until_it_is_due_says_so() {
        let due = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut message = Message::new("id-1".into(), "t", &Arguments::default());
        assert!(!message.is_of_ours());
        message.set_eta(due);
        assert!(message.is_of_ours());
        assert_eq!(message.eta(), Some(due));
        let mut of_python = Message::new("id-2".into(), "t", &Arguments::default());
        of_python.set("lang", "py");
        of_python.set_eta(due);
        assert!(!of_python.is_of_ours());
    }
}
