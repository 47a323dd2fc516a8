//! Whether a benchmark is to measure.

/// `cargo test --all-targets` runs benchmarks, too: only `cargo bench` asks for figures.
pub(crate) fn is_asked() -> bool {
    let asked = std::env::args().any(|argument| argument == "--bench");
    if !asked {
        println!("not measured: `cargo bench` does");
    }
    asked
}
