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

    /// AMQP's rule as it is written, at any cost.
    fn matches_slowly(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, _) => key.is_empty(),
            (Some((&"#", rest)), None) => matches_slowly(rest, key),
            (Some((&"#", rest)), Some((_, tail))) => {
                matches_slowly(rest, key) || matches_slowly(pattern, tail)
            }
            (Some(_), None) => false,
            (Some((word, rest)), Some((first, tail))) => {
                (*word == "*" || word == first) && matches_slowly(rest, tail)
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(crate::corpus::config())]

        #[test]
        fn fuzz_topics(pattern in "([ab*#](\\.[ab*#]?){0,6})?", key in "([ab#](\\.[ab*]?){0,6})?") {
            let words = |text: &str| text.split('.').filter(|_| !text.is_empty()).map(str::to_owned).collect::<Vec<_>>();
            let (p, k) = (words(&pattern), words(&key));
            let (p, k): (Vec<_>, Vec<_>) = (p.iter().map(|w| &**w).collect(), k.iter().map(|w| &**w).collect());
            assert_eq!(topic_matches(&pattern, &key), matches_slowly(&p, &k), "{pattern} {key}");
        }

        #[test]
        fn fuzz_any_topics(pattern in ".{0,60}", key in ".{0,60}") {
            let _ = topic_matches(&pattern, &key);
            assert!(topic_matches("#", &key));
        }
    }

    #[test]
    fn long_patterns_are_no_work() {
        let pattern = vec!["#"; 127].join(".");
        let key = vec!["a"; 127].join(".");
        assert!(topic_matches(&pattern, &key));
        assert!(!topic_matches(&format!("{pattern}.b"), &key));
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
