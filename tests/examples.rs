//! Every example runs on every broker, and prints what it should.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use support::TempFile;

/// How long an example may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The built example; builds all of them first, as `cargo test --test examples` does not.
fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("this test's path");
        let profile = test
            .ancestors()
            .nth(2)
            .expect("target/debug/deps/test")
            .to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "garenne", "--examples"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(
            build.status().expect("cargo runs").success(),
            "the examples do not build"
        );
        profile.join("examples")
    });
    folder.join(name)
}

/// Runs an example to its end and returns what it printed.
fn run(name: &str, broker: &str) -> String {
    let mut example = Command::new(program(name));
    example
        .env("GARENNE_BROKER", broker)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = example.spawn().expect("the example starts");
    let (mut out, mut err) = (
        child.stdout.take().expect("piped"),
        child.stderr.take().expect("piped"),
    );
    let read_out = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let read_err = std::thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).map(|_| text)
    });
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a status") {
            break Some(status);
        }
        if start.elapsed() > PATIENCE {
            child.kill().expect("killed");
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let out = read_out.join().expect("read").expect("UTF-8");
    let err = read_err.join().expect("read").expect("UTF-8");
    assert!(
        status.is_some_and(|status| status.success()),
        "{name} on {broker}: {status:?}\n{out}\n{err}"
    );
    out
}

/// The example prints just these lines.
fn prints(name: &str, broker: &str, expected: &str) {
    let expected: Vec<_> = expected
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let printed = run(name, broker);
    let printed: Vec<_> = printed.lines().map(str::trim).collect();
    assert_eq!(printed, expected, "{name} on {broker}");
}

fn hello(broker: &str) {
    prints(
        "hello",
        broker,
        "sent; 1 call waits\na worker is up: hello, world",
    );
}

fn work_queue(broker: &str) {
    prints(
        "work_queue",
        broker,
        "20 jobs done; the fast worker did more: true
         the slow worker died in the middle of a job
         the job was done by the spare one",
    );
}

fn sharding(broker: &str) {
    prints(
        "sharding",
        broker,
        "queues: [\"bills\", \"bills.shard-1\", \"bills.shard-2\", \"bills.shard-3\"]
         100 customers, each in one of them",
    );
}

fn publish_subscribe(broker: &str) {
    prints(
        "publish_subscribe",
        broker,
        "farmer heard: storm\nfarmer heard: sun\npilot heard: storm\npilot heard: sun
         sailor heard: storm\nsailor heard: sun",
    );
}

fn routing(broker: &str) {
    prints(
        "routing",
        broker,
        "disk: error: on fire\nscreen: error: on fire\nscreen: info: started\nscreen: warning: slow",
    );
}

fn topics(broker: &str) {
    prints(
        "topics",
        broker,
        "#          europe.france.news\n#          kernel.critical\n#          kernel.disk.critical\n#          news
         #.news     europe.france.news\n#.news     news\n*.critical kernel.critical",
    );
}

fn rpc(broker: &str) {
    prints(
        "rpc",
        broker,
        "fib(30) = 832040\nasked first, answered last: true
         fib(1) = 1\nfib(5) = 5\nfib(10) = 55\nfib(15) = 610\nfib(20) = 6765\nfib(36) = 14930352",
    );
}

fn game(broker: &str) {
    prints(
        "game",
        broker,
        "ann: turn 1, 5 carrots\nann: turn 2, 3 carrots\nann: turn 3, 4 carrots
         bob: turn 1, 5 carrots\nbob: turn 2, 3 carrots\nbob: turn 3, 4 carrots",
    );
}

fn state(broker: &str) {
    prints(
        "state",
        broker,
        "refused: task `visit`
         home: visit 1, attempt 1 from queue visits
         home: visit 2, attempt 1 from queue visits
         about: visit 1, attempt 1 from queue visits",
    );
}

fn steering(broker: &str) {
    prints(
        "steering",
        broker,
        r#"Ok("task events enabled")
         task-received
         task-started
         task-succeeded
         Ok("pool will grow")
         Ok("new rate limit set successfully")
         true
         Err(Cancelled)"#,
    );
}

fn supervised(broker: &str) {
    prints(
        "supervised",
        broker,
        "/live: HTTP/1.1 200 OK
         /ready: HTTP/1.1 200 OK
         /consuming: HTTP/1.1 200 OK
         hello Ann",
    );
}

fn schedule(broker: &str) {
    prints(
        "schedule",
        broker,
        "heart: boom\nheart: boom
         the first is active: true
         the second takes its place: true
         once: launch
         feed: beat every 3600s (paused)
         heart: beat every 200ms
         nightly: beat cron 0 3 * * * Europe/Paris",
    );
}

fn retries(broker: &str) {
    prints(
        "retries",
        broker,
        "attempt 3 succeeded
         report: 31
         failed after 1 attempt: invalid digit found in string
         failed after 2 attempts: attempt 2 failed
         panicked: a bug; the worker lives on
         kept as dead letters: 3",
    );
}

fn dead_letters(broker: &str) {
    prints(
        "dead_letters",
        broker,
        r#"ann: the shop's computer is down
         bob: the shop's computer is down
         order("ann", 3) failed: ["the shop's computer is down", "the shop's computer is down"]
         order("bob", 3) failed: ["the shop's computer is down", "the shop's computer is down"]
         complain panicked: a bug
         retried: 2
         discarded: 1
         left: 0"#,
    );
}

fn workflows(broker: &str) {
    let mut printed: Vec<_> = run("workflows", broker)
        .lines()
        .map(str::to_owned)
        .collect();
    // Who is told of a failure hears of it while others go on.
    printed[4..].sort();
    let expected = [
        "3 words",
        r#"["all about ants", "all about bees", "all about wasps"]"#,
        "9 words in all",
        "twice: 6",
        "fetch failed: 404",
        "found 1 of 2",
        "sorry, Ann: 404",
    ];
    assert_eq!(printed, expected);
}

fn options(broker: &str) {
    prints(
        "options",
        broker,
        "urgent mail to ann@example.com for acme by mail.send
         mail to bob@example.com for nobody by mail.send
         2 words
         changed our mind about one call",
    );
}

fn quickstart(broker: &str) {
    let printed = run("quickstart", broker);
    for line in [
        "2 + 3 = 5",
        "300 calls found 3245 primes below 30,000 each, in 2 processes",
        "a retry that recovers: succeeded in attempt 3",
        "after 1 attempt(s): no account is named Nobody",
    ] {
        assert!(printed.contains(line), "no `{line}` in\n{printed}");
    }
}

/// The web server answers a request with what the task returned, and stops when it is told to.
fn web(broker: &str) {
    let mut example = Command::new(program("web"));
    example
        .env("GARENNE_BROKER", broker)
        .env("ADDRESS", "127.0.0.1:0")
        .stdout(Stdio::piped());
    let mut child = example.spawn().expect("the example starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("UTF-8");
    let address = line
        .strip_prefix("listening on http://")
        .expect("an address")
        .to_owned();
    let get = |query: &str| {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(
            stream,
            "GET /thumbnail?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let good = get("width=64");
    assert!(
        good.starts_with("HTTP/1.1 200") && good.ends_with(r#"{"width":64,"height":48}"#),
        "{good}"
    );
    let bad = get("width=0");
    assert!(
        bad.starts_with("HTTP/1.1 422") && bad.ends_with("too small"),
        "{bad}"
    );
    let stopped = Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .expect("told to stop");
    assert!(stopped.success());
    assert!(child.wait().expect("a status").success());
}

macro_rules! on_every_broker {
    ($($example:ident)+) => {
        mod on_memory {
            $(#[test] fn $example() { super::$example("memory://"); })+
        }
        mod on_sqlite {
            $(#[test] fn $example() {
                let file = super::TempFile::new("db");
                super::$example(&file.url());
            })+
        }
        mod on_rabbitmq {
            $(#[test] fn $example() {
                if let Some(url) = super::support::rabbitmq() {
                    super::$example(&url);
                }
            })+
        }
    };
}

on_every_broker! {
    hello work_queue publish_subscribe routing topics rpc game state steering supervised retries schedule dead_letters
    options web workflows sharding
}

#[test]
fn quickstart_on_sqlite() {
    let file = TempFile::new("db");
    quickstart(&file.url());
}

#[test]
fn quickstart_on_rabbitmq() {
    if let Some(url) = support::rabbitmq() {
        quickstart(&url);
    }
}

#[test]
fn quickstart_needs_no_settings() {
    let folder = std::env::temp_dir().join(support::unique("garenne-quickstart"));
    std::fs::create_dir(&folder).expect("a folder");
    let output = Command::new(program("quickstart"))
        .current_dir(&folder)
        .env_remove("GARENNE_BROKER")
        .output();
    let output = output.expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        printed.contains("2 + 3 = 5") && printed.contains("The same on RabbitMQ"),
        "{printed}"
    );
    std::fs::remove_dir_all(folder).expect("removed");
}
