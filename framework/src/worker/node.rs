//! A worker's name among all: `name@host`, as in Celery.

use uuid::Uuid;

/// The node name that a worker asks for by `name`; one that nobody else has where it asks for none.
pub(super) fn name(name: Option<&str>) -> String {
    match name {
        Some(name) if name.contains('@') => name.to_owned(),
        Some(name) => format!("{name}@{}", host()),
        None => format!("garenne-{}-{}@{}", std::process::id(), short_id(), host()),
    }
}

/// Another name for one that is taken.
pub(super) fn another(node: &str) -> String {
    let (name, host) = node.split_once('@').unwrap_or((node, "localhost"));
    format!("{name}-{}@{host}", short_id())
}

fn short_id() -> String {
    Uuid::new_v4().simple().to_string()[..6].to_owned()
}

fn host() -> String {
    let said = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    match said.trim() {
        "" => "localhost".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_host() {
        assert_eq!(name(Some("w1@there")), "w1@there");
        assert!(name(Some("w1")).starts_with("w1@"));
        assert_ne!(name(None), name(None));
        let other = another("w1@there");
        assert!(
            other.starts_with("w1-") && other.ends_with("@there"),
            "{other}"
        );
    }
}
