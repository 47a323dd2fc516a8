//! The invariants of ARCHITECTURE.md that can be read off the source.

use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file below `folder`, by its path there, without its tests.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                let text = text
                    .split("#[cfg(test)]")
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                let name = path
                    .strip_prefix(folder)
                    .expect("below")
                    .to_string_lossy()
                    .into_owned();
                if !name.ends_with("tests.rs") {
                    found.push((name, text));
                }
            }
        }
    }
    assert!(found.len() > 20, "the source is elsewhere");
    found
}

/// Lines of code with `word`, outside of comments, in files that `elsewhere` selects.
fn offenders(word: &str, elsewhere: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in files(&source())
        .into_iter()
        .filter(|(name, _)| elsewhere(name))
    {
        for line in text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//") && line.contains(word))
        {
            found.push(format!("{name}: {}", line.trim()));
        }
    }
    found
}

fn imports(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(source().join(file)).expect(file);
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| line.starts_with("use crate::"));
    lines
        .map(|line| {
            line.trim_start_matches("use crate::")
                .split([':', ';'])
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

#[test]
fn a_message_knows_nothing_of_us() {
    assert!(
        imports("message.rs").is_empty(),
        "{:?}",
        imports("message.rs")
    );
    assert!(
        imports("reply.rs")
            .iter()
            .all(|module| ["failure", "message"].contains(&module.as_str()))
    );
}

#[test]
fn a_broker_never_knows_what_a_task_is() {
    for module in [
        "task", "call", "app", "worker", "context", "handle", "registry",
    ] {
        let found = offenders(&format!("crate::{module}"), |name| {
            name.starts_with("broker")
        });
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn lapin_sql_and_redis_are_named_in_one_place_each() {
    assert_eq!(
        offenders("lapin", |name| !name.starts_with("broker/amqp/")),
        Vec::<String>::new()
    );
    assert_eq!(
        offenders("rusqlite", |name| !name.starts_with("broker/sqlite/")),
        Vec::<String>::new()
    );
    assert_eq!(
        offenders("redis::", |name| !name.starts_with("result_store")),
        Vec::<String>::new()
    );
}

#[test]
fn workers_settle_deliveries_in_one_place_and_operators_in_another() {
    for method in [
        "delivery.ack(",
        "delivery.settle(",
        "delivery.retry(",
        "delivery.reject(",
        "delivery.release(",
    ] {
        let found = offenders(method, |name| {
            let places = ["worker/settle.rs", "dead_letters.rs"];
            !name.starts_with("broker/") && !places.contains(&name)
        });
        assert_eq!(found, Vec::<String>::new());
    }
}

#[test]
fn what_is_pure_reads_no_clock() {
    for file in [
        "message.rs",
        "reply.rs",
        "retry.rs",
        "broker/routing.rs",
        "broker/url.rs",
        "broker/queue.rs",
        "scheduler/cron.rs",
        "scheduler/progress.rs",
        "scheduler/schedule.rs",
        "scheduler/table.rs",
        "scheduler/tick.rs",
    ] {
        for clock in ["::now()", "sleep("] {
            let found = offenders(clock, |name| name == file);
            assert_eq!(found, Vec::<String>::new());
        }
    }
}
