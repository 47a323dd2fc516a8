//! Where a message goes: to a queue by name, or through an exchange with AMQP's meaning; and what its
//! sender learns where there is no way.

use garenne::broker::{Exchange, HeaderMatch, Queue, Route};
use garenne::error::Error;
use serde_json::{Value, json};

use super::fixture::{
    Fixture, assert_unroutable, message, next, publish, take, to_exchange, to_queue,
};

/// Which of the queues, named for their bindings, hold the message.
async fn reached(f: &Fixture, queues: &[Queue], id: &str) -> Vec<usize> {
    let mut reached = Vec::new();
    for (i, queue) in queues.iter().enumerate() {
        let ready = f.depth(queue).await.ready;
        assert!(ready <= 1, "{ready} copies of {id} in {}", queue.name());
        if ready == 1 {
            let mut consumer = f.consume(queue, 1).await;
            assert_eq!(take(&mut consumer, 1).await, [id]);
            reached.push(i);
        }
    }
    reached
}

/// Publishes with this key and headers, and checks which queues hold it once all expected ones do.
async fn routes(
    f: &Fixture,
    exchange: &Exchange,
    queues: &[Queue],
    key: &str,
    headers: Value,
    expected: &[usize],
) {
    let mut sent = message(key);
    for (name, value) in headers.as_object().expect("an object") {
        sent.set(name, value.clone());
    }
    let outcome = f.try_publish(to_exchange(exchange, key, sent)).await;
    if expected.is_empty() {
        assert_unroutable(outcome, exchange.name());
    } else {
        outcome.expect("a publish");
    }
    for i in expected {
        f.ready_becomes(&queues[*i], 1).await;
    }
    assert_eq!(reached(f, queues, key).await, expected, "{key} {headers}");
}

/// Declares one queue for each set of keys.
async fn bound(f: &Fixture, exchange: &Exchange, bindings: &[&[&str]]) -> Vec<Queue> {
    let mut queues = Vec::new();
    for (i, keys) in bindings.iter().enumerate() {
        let mut queue = f.queue(&i.to_string());
        for key in *keys {
            queue = queue.bind(exchange, *key);
        }
        f.declare(&queue).await;
        queues.push(queue);
    }
    queues
}

pub(crate) async fn no_queue_of_that_name_is_an_error_that_names_it(f: &Fixture) {
    let nowhere = f.queue("nowhere");
    let outcome = f.try_publish(to_queue(&nowhere, message("a"))).await;
    assert_unroutable(outcome, nowhere.name());
}

pub(crate) async fn a_missing_exchange_is_an_error_that_names_it(f: &Fixture) {
    let nowhere = Exchange::topic(f.name("nowhere"));
    let outcome = f
        .try_publish(to_exchange(&nowhere, "key", message("a")))
        .await;
    match outcome {
        Err(error @ (Error::Refused { .. } | Error::Unroutable { .. })) => {
            assert!(error.to_string().contains(nowhere.name()), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // And it did no harm.
    let queue = f.declared("q").await;
    f.send(&queue, &["b"]).await;
    f.ready_becomes(&queue, 1).await;
}

pub(crate) async fn an_exchange_without_a_matching_binding_is_an_error(f: &Fixture) {
    let exchange = Exchange::direct(f.name("e"));
    f.declare(&f.queue("q").bind(&exchange, "key")).await;
    let outcome = f
        .try_publish(to_exchange(&exchange, "other", message("a")))
        .await;
    assert_unroutable(outcome, exchange.name());
}

pub(crate) async fn an_exchange_without_bindings_is_an_error(f: &Fixture) {
    let exchange = Exchange::fanout(f.name("e"));
    f.consumer
        .declare_exchange(&exchange)
        .await
        .expect("a declaration");
    let outcome = f
        .try_publish(to_exchange(&exchange, "", message("a")))
        .await;
    assert_unroutable(outcome, exchange.name());
}

pub(crate) async fn a_direct_exchange_compares_the_key(f: &Fixture) {
    let exchange = Exchange::direct(f.name("e"));
    let queues = bound(f, &exchange, &[&["red"], &["red", "blue"], &["r*d"]]).await;
    routes(f, &exchange, &queues, "red", json!({}), &[0, 1]).await;
    routes(f, &exchange, &queues, "blue", json!({}), &[1]).await;
    routes(f, &exchange, &queues, "Red", json!({}), &[]).await;
}

pub(crate) async fn a_fanout_exchange_ignores_the_key(f: &Fixture) {
    let exchange = Exchange::fanout(f.name("e"));
    let queues = bound(f, &exchange, &[&[""], &["key"], &["a", "b"]]).await;
    routes(f, &exchange, &queues, "whatever", json!({}), &[0, 1, 2]).await;
    routes(f, &exchange, &queues, "key", json!({}), &[0, 1, 2]).await;
}

pub(crate) async fn a_topic_exchange_matches_words(f: &Fixture) {
    let exchange = Exchange::topic(f.name("e"));
    let bindings: &[&[&str]] = &[
        &["#.news"],
        &["*.news"],
        &["europe.#"],
        &["#"],
        &["europe.*.news"],
    ];
    let queues = bound(f, &exchange, bindings).await;
    routes(f, &exchange, &queues, "news", json!({}), &[0, 3]).await;
    routes(f, &exchange, &queues, "asia.news", json!({}), &[0, 1, 3]).await;
    routes(f, &exchange, &queues, "europe", json!({}), &[2, 3]).await;
    let key = "europe.france.news";
    routes(f, &exchange, &queues, key, json!({}), &[0, 2, 3, 4]).await;
    routes(f, &exchange, &queues, "newsx", json!({}), &[3]).await;
}

pub(crate) async fn a_headers_exchange_compares_headers(f: &Fixture) {
    let exchange = Exchange::headers(f.name("e"));
    let wanted = [("format", json!("pdf")), ("pages", json!(3))];
    let all = f
        .queue("all")
        .bind_headers(&exchange, HeaderMatch::All, wanted.clone());
    let any = f
        .queue("any")
        .bind_headers(&exchange, HeaderMatch::Any, wanted);
    let queues = [all, any];
    for queue in &queues {
        f.declare(queue).await;
    }
    let both = json!({"format": "pdf", "pages": 3, "more": true});
    routes(f, &exchange, &queues, "both", both, &[0, 1]).await;
    let one = json!({"format": "pdf", "pages": 4});
    routes(f, &exchange, &queues, "one", one, &[1]).await;
    routes(f, &exchange, &queues, "none", json!({"format": "zip"}), &[]).await;
}

pub(crate) async fn a_queue_gets_one_copy_however_many_bindings_match(f: &Fixture) {
    let exchange = Exchange::topic(f.name("e"));
    let queues = bound(f, &exchange, &[&["#", "a.*", "a.b"], &["a.#", "*.b"]]).await;
    routes(f, &exchange, &queues, "a.b", json!({}), &[0, 1]).await;
}

pub(crate) async fn a_queue_may_be_bound_to_several_exchanges(f: &Fixture) {
    let direct = Exchange::direct(f.name("direct"));
    let topic = Exchange::topic(f.name("topic"));
    let queue = f.queue("q").bind(&direct, "key").bind(&topic, "#.end");
    f.declare(&queue).await;
    f.publish(to_exchange(&direct, "key", message("a"))).await;
    f.publish(to_exchange(&topic, "the.end", message("b")))
        .await;
    f.send(&queue, &["c"]).await;
    let mut consumer = f.consume(&queue, 1).await;
    assert_eq!(take(&mut consumer, 3).await, ["a", "b", "c"]);
}

pub(crate) async fn a_delivery_knows_its_exchange_and_key(f: &Fixture) {
    let exchange = Exchange::topic(f.name("e"));
    let queue = f.queue("q").bind(&exchange, "#");
    f.declare(&queue).await;
    f.publish(to_exchange(&exchange, "größe.b", message("a")))
        .await;
    let mut consumer = f.consume(&queue, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.queue, queue.name());
    assert_eq!(delivery.exchange, exchange.name());
    assert_eq!(delivery.routing_key, "größe.b");
}

pub(crate) async fn a_routing_key_longer_than_amqp_allows_is_an_error(f: &Fixture) {
    let exchange = Exchange::topic(f.name("e"));
    let queue = f.queue("q").bind(&exchange, "#");
    f.declare(&queue).await;
    let route = |length: usize| Route::Exchange {
        exchange: exchange.name().to_owned(),
        routing_key: "k".repeat(length),
    };
    let outcome = f.try_publish(publish(route(256), message("a"))).await;
    assert!(outcome.is_err());
    f.publish(publish(route(255), message("b"))).await;
    f.ready_becomes(&queue, 1).await;
}
