//! Flower at a worker of ours: its pages, its buttons, and what a browser makes of them.

use std::path::PathBuf;
use std::process::Stdio;

use garenne::FailureKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::celery::{Running, Watched};
use crate::support::{self, eventually, unique, within};
use crate::tasks::{Crew, add, pass};

/// The status and the body of an answer over HTTP.
async fn http(port: u16, method: &str, path: &str, form: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let length = form.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\ncontent-length: {length}\r\n\
         content-type: application/x-www-form-urlencoded\r\n\r\n{form}"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A Flower that knows our worker.
struct Flower {
    port: u16,
    node: String,
    _program: Running,
}

impl Flower {
    async fn start(watched: &Watched) -> Self {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("bound").port()
        };
        let arguments = [
            "flower",
            "--address=127.0.0.1",
            &format!("--port={port}"),
            "--logging=warning",
        ];
        let program = Running(watched.tool(&arguments).spawn().expect("flower starts"));
        let flower = Self {
            port,
            node: watched.crew.node.clone(),
            _program: program,
        };
        eventually("Flower", || async {
            flower.get("/healthcheck".into()).await.0 == 200
        })
        .await;
        // Its worker pages are there once it has asked the worker.
        let known = format!("/api/workers?refresh=1&workername={}", flower.node);
        eventually("our worker", || async {
            flower.get(known.clone()).await.1.contains("active_queues")
        })
        .await;
        flower
    }

    async fn get(&self, path: String) -> (u16, String) {
        let answer = http(self.port, "GET", &path, "").await;
        answer.unwrap_or((0, String::new()))
    }

    /// The id of a call that Flower has heard all of. It switches events on itself; calls go on until then.
    async fn knows_of_a_task(&self, crew: &Crew) -> String {
        let known = async {
            loop {
                let sum = crew.call(add::call(2, 3)).send(&crew.app);
                let sum = sum.await.expect("sent");
                let id = sum.id().to_owned();
                within("a result", sum).await.expect("a sum");
                tokio::time::sleep(garenne::SECOND / 2).await;
                // Events may have been asked for while it ran, so that its name was not told.
                let (_, info) = self.get(format!("/api/task/info/{id}")).await;
                if info.contains("SUCCESS") && info.contains("control.add") {
                    return id;
                }
            }
        };
        within("a task", known).await
    }
}

/// Chromium, which shows one page and ends.
struct Browser {
    program: PathBuf,
    profile: PathBuf,
}

impl Browser {
    /// `None`, said aloud, where there is none.
    fn find() -> Option<Self> {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = std::env::split_paths(&folders).flat_map(|folder| {
            ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name))
        });
        let Some(program) = programs.find(|program| program.is_file()) else {
            eprintln!("skipped: there is no Chromium");
            return None;
        };
        let profile = std::env::temp_dir().join(unique("chromium"));
        Some(Self { program, profile })
    }

    async fn show(&self, what: &str, url: &str) -> Vec<u8> {
        let mut command = Command::new(&self.program);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync"])
            .args(["--window-size=1280,900", "--virtual-time-budget=3000"])
            .arg(format!("--user-data-dir={}", self.profile.display()))
            .args([what, url])
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let output = within("a page", command.output()).await.expect("it runs");
        assert!(output.status.success(), "{url}: {}", output.status);
        output.stdout
    }

    /// The page as it is when its scripts have run.
    async fn page(&self, url: &str) -> String {
        String::from_utf8(self.show("--dump-dom", url).await).expect("UTF-8")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.profile).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_our_worker_and_its_tasks() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let Some(watched) = Watched::new(2).await else {
        return;
    };
    let crew = &watched.crew;
    let flower = Flower::start(&watched).await;
    let done = flower.knows_of_a_task(crew).await;
    let node = &crew.node;
    let at = |path: &str| format!("http://127.0.0.1:{}{path}", flower.port);
    for (path, expected) in [
        (
            format!("/worker/{node}"),
            [node.as_str(), &crew.queue, "control.pass"],
        ),
        (
            format!("/task/{done}"),
            [done.as_str(), "control.add", "SUCCESS"],
        ),
        // Its table is filled by a script.
        ("/tasks".to_owned(), [done.as_str(), "control.add", node]),
    ] {
        let page = browser.page(&at(&path)).await;
        for expected in expected {
            assert!(page.contains(expected), "{path} without {expected}: {page}");
        }
    }
    let image = std::env::temp_dir().join(format!("{}.png", unique("flower")));
    let screenshot = format!("--screenshot={}", image.display());
    browser
        .show(&screenshot, &at(&format!("/worker/{node}")))
        .await;
    let png = std::fs::read(&image).expect("a screenshot");
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "no PNG");
    // Width and height; and an empty page takes a tenth of that.
    assert_eq!(png[16..20], 1280_u32.to_be_bytes());
    assert!(png.len() > 20_000, "{} bytes", png.len());
    std::fs::remove_file(image).ok();
    watched.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flower_shows_and_steers() {
    let Some(watched) = Watched::new(2).await else {
        return;
    };
    let crew = &watched.crew;
    let flower = Flower::start(&watched).await;
    let (node, port) = (&crew.node, flower.port);
    let get = |path: String| flower.get(path);
    let done = flower.knows_of_a_task(crew).await;
    for (path, expected) in [
        ("/".to_owned(), "Workers"),
        (format!("/worker/{node}"), crew.queue.as_str()),
        (format!("/worker/{node}"), "control.pass"),
        ("/tasks".into(), "Tasks"),
        (format!("/task/{done}"), "control.add"),
        ("/broker".into(), "Broker"),
        ("/metrics".into(), "flower_worker_online"),
        ("/workers?json=1".into(), node),
    ] {
        let (status, body) = get(path.clone()).await;
        assert!(
            status == 200 && body.contains(expected),
            "{path}: {status} {body}"
        );
    }

    let runs = crew
        .call(pass::call(1))
        .send(&crew.app)
        .await
        .expect("sent");
    crew.gate.has_let_in(1).await;
    let later = crew.call(add::call(1, 1)).countdown(5 * garenne::SECOND);
    let waits = later.send(&crew.app).await.expect("sent");
    let more = format!("{}.more", crew.queue);
    let queue = format!("queue={more}");
    let to = format!("workername={node}");
    for (path, form) in [
        (format!("/api/worker/pool/grow/{node}"), "n=2".to_owned()),
        (format!("/api/worker/pool/shrink/{node}"), "n=1".to_owned()),
        (
            format!("/api/worker/queue/add-consumer/{node}"),
            queue.clone(),
        ),
        (format!("/api/worker/queue/cancel-consumer/{node}"), queue),
        (
            "/api/task/rate-limit/control.add".into(),
            format!("{to}&ratelimit=100%2Fs"),
        ),
        (
            "/api/task/timeout/control.add".into(),
            format!("{to}&hard=900&soft=800"),
        ),
        (format!("/api/task/revoke/{}", waits.id()), String::new()),
        (
            format!("/api/task/revoke/{}", runs.id()),
            "terminate=true".into(),
        ),
    ] {
        // Flower waits a second for a worker's word, which a busy machine may take longer for.
        eventually(&path, || async {
            let (status, body) = http(port, "POST", &path, &form).await.expect("an answer");
            let is_late = status == 403 && body.contains("Unknown reason");
            assert!(status == 200 || is_late, "{path}: {status} {body}");
            status == 200
        })
        .await;
    }
    // Buttons for what our workers do not do say so.
    let autoscale = format!("/api/worker/pool/autoscale/{node}");
    let restart = format!("/api/worker/pool/restart/{node}");
    for (path, form, said) in [
        (autoscale, "min=1&max=9", "Autoscale not enabled"),
        (restart, "", "Pool restarts not enabled"),
    ] {
        let (status, body) = http(port, "POST", &path, form).await.expect("an answer");
        assert!(
            status == 403 && body.contains(said),
            "{path}: {status} {body}"
        );
    }
    let failure = within("a failure", runs).await.expect_err("ended");
    assert_eq!(failure.kind, FailureKind::Cancelled);
    let failure = within("a failure", waits).await.expect_err("revoked");
    assert_eq!(failure.kind, FailureKind::Cancelled);
    let stats = crew.control().stats().await.expect("asked").remove(node);
    // Two at first, two more, one less; other numbers where Flower had to be told again.
    assert_ne!(stats.expect("an answer").expect("stats").slots, 0);
    let tasks = crew
        .control()
        .registered()
        .await
        .expect("asked")
        .remove(node)
        .expect("an answer")
        .expect("tasks");
    assert!(
        tasks.contains(&"control.add [rate_limit=100/s]".to_owned()),
        "{tasks:?}"
    );
    let (status, body) = http(port, "POST", &format!("/api/worker/shutdown/{node}"), "")
        .await
        .expect("an answer");
    assert_eq!(status, 200, "{body}");
    let stopped = crew
        .app
        .control()
        .to([node])
        .timeout(support::PATIENCE / 15);
    eventually("the worker's end", || async {
        stopped.ping().await.expect("asked").is_empty()
    })
    .await;
    crew.app.delete(&more).await.expect("deleted");
    watched.end().await;
}
