//! Which queues an exchange leads to: AMQP's rules for the embedded brokers. Pure; RabbitMQ has its own.

use crate::broker::{Binding, ExchangeKind, HeaderMatch};
use crate::message::Headers;

/// Whether `binding` takes a message with this routing key and these headers.
#[must_use]
pub fn matches(binding: &Binding, routing_key: &str, headers: &Headers) -> bool {
    match binding.exchange.kind() {
        ExchangeKind::Direct => binding.routing_key == routing_key,
        ExchangeKind::Fanout => true,
        ExchangeKind::Topic => topic_matches(&binding.routing_key, routing_key),
        ExchangeKind::Headers => headers_match(binding, headers),
    }
}

/// Whether the dotted words of `key` match `pattern`, where `*` is exactly one word and `#` any number.
///
/// The empty key has no words at all, as in RabbitMQ.
#[must_use]
pub fn topic_matches(pattern: &str, key: &str) -> bool {
    let words = |text: &'_ str| -> Vec<String> {
        if text.is_empty() {
            Vec::new()
        } else {
            text.split('.').map(str::to_owned).collect()
        }
    };
    let (pattern, key) = (words(pattern), words(key));
    // `reachable[i]`: the pattern read so far matches the first `i` words of the key.
    let mut reachable = vec![false; key.len() + 1];
    reachable[0] = true;
    for word in &pattern {
        let mut next = vec![false; key.len() + 1];
        if word == "#" {
            let mut seen = false;
            for i in 0..=key.len() {
                seen |= reachable[i];
                next[i] = seen;
            }
        } else {
            for i in 0..key.len() {
                next[i + 1] = reachable[i] && (word == "*" || *word == key[i]);
            }
        }
        reachable = next;
    }
    reachable[key.len()]
}

/// As RabbitMQ does, names that begin with `x-` are left out of the comparison.
fn headers_match(binding: &Binding, headers: &Headers) -> bool {
    let mut wanted = binding
        .headers
        .iter()
        .filter(|(name, _)| !name.starts_with("x-"));
    let present = |(name, value): (&String, _)| headers.get(name) == Some(value);
    match binding.header_match {
        HeaderMatch::All => wanted.all(present),
        HeaderMatch::Any => wanted.any(present),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Exchange, Queue};
    use serde_json::json;

    #[test]
    fn topics() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("*.b", "a.b", true),
            ("*", "a.b", false),
            ("*", "", false),
            ("#", "", true),
            ("", "", true),
            ("", "a", false),
            ("#", "a.b.c", true),
            ("#.news", "news", true),
            ("#.news", "europe.france.news", true),
            ("#.news", "europe.news.old", false),
            ("*.critical", "kern.critical", true),
            ("*.critical", "a.kern.critical", false),
            ("a.#.z", "a.z", true),
            ("a.#.z", "a.b.c.z", true),
            ("a.#.z", "a.b.c", false),
            ("#.#", "a", true),
            ("#.*", "", false),
            ("#.*", "a.b", true),
            ("*.#", "a", true),
            ("a.*", "a.", true),
        ] {
            assert_eq!(
                topic_matches(pattern, key),
                expected,
                "{pattern} against {key}"
            );
        }
    }

    #[test]
    fn header_bindings() {
        let exchange = Exchange::headers("h");
        let message = json!({"format": "pdf", "pages": 3, "x-secret": 1})
            .as_object()
            .cloned()
            .expect("an object");
        for (header_match, headers, expected) in [
            (HeaderMatch::All, json!({"format": "pdf", "pages": 3}), true),
            (
                HeaderMatch::All,
                json!({"format": "pdf", "pages": 4}),
                false,
            ),
            (HeaderMatch::Any, json!({"format": "pdf", "pages": 4}), true),
            (HeaderMatch::Any, json!({"format": "zip"}), false),
            (HeaderMatch::All, json!({}), true),
            (HeaderMatch::Any, json!({}), false),
            (HeaderMatch::All, json!({"x-secret": 2}), true),
        ] {
            let headers = headers.as_object().cloned().expect("an object");
            let queue = Queue::new("q").bind_headers(&exchange, header_match, headers.clone());
            assert_eq!(
                matches(&queue.bindings[0], "", &message),
                expected,
                "{header_match:?} {headers:?}"
            );
        }
    }
}
