//! The script that starts and harms RabbitMQ nodes.

/// Where it is, as `GARENNE_TEST_RABBITMQ` says; `None`, said aloud, where RabbitMQ is missing and not
/// required.
pub(crate) fn script() -> Option<String> {
    match std::env::var("GARENNE_TEST_RABBITMQ") {
        Ok(script) if !script.is_empty() => Some(script),
        _ if std::env::var_os("GARENNE_TEST_REQUIRE_AMQP").is_some() => {
            panic!("GARENNE_TEST_RABBITMQ must name tests/support/rabbitmq")
        }
        _ => {
            eprintln!("skipped: GARENNE_TEST_RABBITMQ names no script that starts nodes");
            None
        }
    }
}

/// Evaluated by a node, makes sure that its crash leaves the queues that were declared so far: older releases
/// note only half a second later that a quorum queue exists, and lose its messages in a crash before that
/// (github.com/rabbitmq/ra/pull/443).
pub(crate) const REMEMBER_QUEUES: &str = "catch dets:sync(ra_directory_reverse).";
