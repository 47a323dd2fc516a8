//! Faults and scale: killed processes, broker restarts, lost connections, poison, and hundreds of
//! thousands of calls. One test at a time, and beside it one that mostly waits for time to pass; each prints its figures
//! (`-- --nocapture` shows them).
//!
//! RabbitMQ is taken from `GARENNE_TEST_AMQP`. Tests that harm a broker start a node of their own with the
//! script that `GARENNE_TEST_RABBITMQ` names, in a folder under `GARENNE_TEST_DIR`.

mod support;

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/script.rs"]
mod script;
#[path = "support/version.rs"]
mod version;

/// The tests, and what they share.
mod faults {
    mod addresses;
    mod alarms;
    mod child;
    mod chords;
    mod clients;
    mod cluster;
    mod connections;
    mod crowded;
    mod dead_letters;
    mod frames;
    mod joins;
    mod killed;
    mod load;
    mod long;
    mod memory;
    mod node;
    mod operators;
    mod outage;
    mod outages;
    mod place;
    mod poison;
    mod restart;
    mod rolling;
    mod scale;
    mod schedulers;
    mod starved;
    mod stopped;
    mod stopping;
    mod tap;
    mod tasks;
    mod void;
    use crate::proxy;
}
