//! Torture: producers, workers and brokers in processes of their own, and a conductor that harms them by a
//! seeded schedule. All of them write a history, which is checked when the storm is over: no confirmed call
//! lost, every reply right, nothing run twice that no fault explains, nobody deaf.
//!
//! `tests/run torture` runs each fault once; `tests/run torture --minutes 10 --seed 7 --place cluster` is a
//! real storm. `docs/torture.md` has what came of those.

mod support;

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/script.rs"]
mod script;

/// The storms, the checker, and what they share.
mod torture {
    mod chance;
    mod check;
    mod check_tests;
    mod child;
    mod conductor;
    mod disk;
    mod fault;
    mod history;
    mod life;
    mod nodes;
    mod process;
    mod producer;
    mod proxy_tests;
    mod recovery;
    mod storm;
    mod strike;
    mod table;
    mod tasks;
}
