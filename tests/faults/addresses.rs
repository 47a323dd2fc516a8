//! Brokers that cannot be reached say so soon, where they were looked for, and what to try.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use garenne::App;

use super::place::{Place, alone};
use crate::support::{TempFile, unique};

const LIMIT: Duration = Duration::from_secs(12);

/// Connecting to `url` fails in time, and the error has all these words and no password.
async fn fails(url: &str, words: &[&str]) {
    let start = Instant::now();
    let attempt = tokio::time::timeout(LIMIT, App::connect(url)).await;
    let Ok(outcome) = attempt else {
        panic!("{url}: no answer within {LIMIT:?}");
    };
    let error = outcome.expect_err(url).to_string();
    println!("addresses: {:.1?}: {error}", start.elapsed());
    for word in words {
        assert!(error.contains(word), "{word:?} is missing: {error}");
    }
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn a_rabbitmq_that_refuses_says_why() {
    let place = Place::quorum;
    alone("a_rabbitmq_that_refuses_says_why", place, async |place| {
        let (_, rest) = place.url.split_once('@').expect("user@host");
        let host = rest.split('/').next().expect("a host");
        let wrong = format!("amqp://guest:secret@{host}/%2f");
        fails(
            &wrong,
            &[host, "guest:***@", "check the user and the password"],
        )
        .await;
        let (known, _) = place.url.split_once(host).expect("the host");
        let nowhere = format!("{known}{host}/nowhere");
        fails(&nowhere, &[host, "nowhere", "check the vhost"]).await;
    });
}

#[test]
fn a_rabbitmq_that_is_not_there_is_named() {
    let deaf = || TcpListener::bind("127.0.0.1:0").ok();
    alone(
        "a_rabbitmq_that_is_not_there_is_named",
        deaf,
        async |deaf| {
            let refused = "amqp://guest:secret@127.0.0.1:1";
            fails(
                refused,
                &["127.0.0.1:1", "check the address", "RabbitMQ runs there"],
            )
            .await;
            let unknown = "amqp://guest:secret@no-such-host.invalid";
            fails(unknown, &["no-such-host.invalid", "check the address"]).await;
            let silent = deaf.local_addr().expect("an address").to_string();
            let url = format!("amqp://guest:secret@{silent}");
            fails(&url, &[&silent, "is this RabbitMQ's AMQP port"]).await;
            fails("amqp:/guest:secret@host", &["host", "amqp://"]).await;
            fails("redis://:secret@host", &["host", "amqp://", "sqlite://"]).await;
            if !cfg!(any(
                feature = "tls-rustls-ring",
                feature = "tls-rustls-aws",
                feature = "tls-native"
            )) {
                let tls = "amqps://guest:secret@127.0.0.1:1";
                fails(tls, &["127.0.0.1:1", "tls-rustls-ring"]).await;
            }
        },
    );
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let file = || Some(TempFile::new("db"));
    alone("a_file_that_cannot_be_used_is_named", file, async |file| {
        fails(
            "sqlite:///proc/garenne.db",
            &["/proc/garenne.db", "name a file in"],
        )
        .await;
        let folder = std::env::temp_dir().display().to_string();
        fails(
            &format!("sqlite://{folder}"),
            &[&folder, "it must be a file"],
        )
        .await;
        let garbage = "no database ".repeat(1_000);
        std::fs::write(&file.0, &garbage).expect("written");
        let path = file.0.display().to_string();
        fails(&file.url(), &[&path, "name another file"]).await;
        let after = std::fs::read(&file.0).expect("still there");
        assert_eq!(after, garbage.as_bytes(), "it is left alone");
        // What should be a directory is a file.
        let below = file.0.join("garenne.db").display().to_string();
        fails(&format!("sqlite://{below}"), &[&below, "name a file in"]).await;
        fails("sqlite://", &["sqlite://garenne.db"]).await;
        // A missing directory is made.
        let missing = std::env::temp_dir().join(unique("missing"));
        let url = format!("sqlite://{}", missing.join("garenne.db").display());
        App::connect(url).await.expect("made").close().await;
        std::fs::remove_dir_all(missing).expect("removed");
    });
}
