//! What broken and hostile senders send, to a live worker on every broker: each message ends in the dead
//! letters with a reason and its body as it was, or runs where it is valid; who awaits it is told; the
//! worker goes on, and its memory is bounded.

#[path = "support/raw.rs"]
mod raw;
mod support;

/// The tests, and what they share.
mod hostile {
    mod bodies;
    mod case;
    mod child;
    mod frames;
    mod fuzz;
    mod headers;
    mod live;
    mod publishing;
    mod replying;
    mod tasks;
}
