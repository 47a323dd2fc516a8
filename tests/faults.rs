//! Faults and scale: killed processes, broker restarts, lost connections, poison, and hundreds of
//! thousands of calls. One test at a time, so that each has the machine to itself; each prints its figures
//! (`-- --nocapture` shows them).
//!
//! RabbitMQ is taken from `GARENNE_TEST_AMQP`. Tests that harm a broker start a node of their own with the
//! script that `GARENNE_TEST_RABBITMQ` names, in a folder under `GARENNE_TEST_DIR`.

mod support;

/// The tests, and what they share.
mod faults {
    mod addresses;
    mod child;
    mod connections;
    mod crowded;
    mod dead_letters;
    mod killed;
    mod long;
    mod node;
    mod outage;
    mod place;
    mod poison;
    mod restart;
    mod scale;
    mod stopped;
    mod tasks;
}
