//! Every way in which RabbitMQ can go away and come back: how long it takes from its return until a worker
//! runs a call again, and that none is lost or hangs.

use std::time::{Duration, Instant};

use garenne::{App, Error, Handle};

use super::node::Node;
use super::place::{Place, alone, figure};
use super::proxy::{Proxy, Rules};
use super::tasks::{arrives, echo, lasts, now, outlives, worker};
use crate::support::within;

/// In seconds.
const HEARTBEAT: u32 = 2;
/// How long the broker is away: longer than it takes to notice.
const AWAY: Duration = Duration::from_millis(5_000);
/// From the broker's return to the next call that runs.
const LONGEST: Duration = Duration::from_secs(2);
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// A worker and its caller behind a proxy.
struct Behind {
    place: Place,
    proxy: Proxy,
    app: App,
}

impl Behind {
    async fn start(place: Place) -> Self {
        let proxy = Proxy::start(&place.server()).await;
        let url = place.through(proxy.address);
        let app = App::builder(url).send_timeout(SEND_TIMEOUT).connect().await;
        let app = app.expect("through the proxy");
        Self { place, proxy, app }
    }
}

fn quorum() -> Option<Place> {
    Some(Place::quorum()?.heartbeat(HEARTBEAT))
}

/// Sends `n` on the way that stays open: it runs when the worker is back, and notes when.
async fn send(place: &Place, direct: &App, n: u64) -> Handle<u64> {
    let call = arrives::call(n).queue(&place.queue);
    within("sending", call.send(direct)).await.expect("sent")
}

/// How long after `back` call `n` ran.
async fn gap(place: &Place, n: u64, back: u128) -> Duration {
    let is_it = |line: &String| line.starts_with(&format!("{n} "));
    let poll = async {
        loop {
            if let Some(line) = place.lines().into_iter().find(is_it) {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let line = within("the next call", poll).await;
    let at: u128 = line[n.to_string().len() + 1..].parse().expect("a time");
    Duration::from_nanos(u64::try_from(at.saturating_sub(back)).expect("soon"))
}

#[test]
fn a_worker_is_back_soon_after_every_kind_of_cut() {
    let name = "a_worker_is_back_soon_after_every_kind_of_cut";
    alone(name, quorum, every_cut);
}

async fn every_cut(place: Place) {
    let direct = place.app().await;
    let behind = Behind::start(place).await;
    let (place, proxy) = (&behind.place, &behind.proxy);
    let worker = worker(&behind.app, &*place.queue, 4, &place.journal()).spawn();
    assert!(worker.ready().await);
    let lasting = |rules: Rules| move |proxy: &Proxy| proxy.set(rules.clone());
    let hole = || Rules {
        black_hole: true,
        ..Rules::default()
    };
    let closed = Rules {
        closed_port: true,
        ..Rules::default()
    };
    let door = Rules {
        accept_then_close: true,
        ..Rules::default()
    };
    type Outage = (&'static str, Box<dyn Fn(&Proxy)>, Box<dyn Fn(&Proxy)>);
    let outages: Vec<Outage> = vec![
        ("cut", Box::new(|_| ()), Box::new(Proxy::cut)),
        ("reset", Box::new(|_| ()), Box::new(Proxy::reset)),
        ("half closed", Box::new(|_| ()), Box::new(Proxy::half_close)),
        (
            "port closed",
            Box::new(lasting(closed)),
            Box::new(Proxy::reset),
        ),
        (
            "accepts, then closes",
            Box::new(lasting(door)),
            Box::new(Proxy::cut),
        ),
        (
            "new connections get no answer",
            Box::new(lasting(hole())),
            Box::new(Proxy::cut),
        ),
        ("black hole", Box::new(lasting(hole())), Box::new(|_| ())),
    ];
    for (n, (name, rules, blow)) in (1..).zip(outages) {
        rules(proxy);
        let mut back = now();
        blow(proxy);
        let lasts = !matches!(name, "cut" | "reset" | "half closed");
        if lasts {
            tokio::time::sleep(AWAY).await;
        }
        let call = send(place, &direct, n).await;
        if lasts {
            back = now();
            proxy.heal();
        }
        let gap = gap(place, n, back).await;
        assert_eq!(within("a result", call).await, Ok(n));
        figure!(
            place,
            "{name}: the next call runs {gap:.0?} after the return"
        );
        assert!(gap < LONGEST, "{name}: {gap:?}");
        // The caller behind the proxy is back, too.
        let call = echo::call(n).queue(&place.queue);
        let answer = within("sending", call.send(&behind.app)).await;
        assert_eq!(
            within("a result", answer.expect("sent")).await,
            Ok(n),
            "{name}"
        );
    }
    assert_eq!(place.lines().len(), 7, "each ran once");
    worker.stop().await.expect("stopped");
    behind.app.close().await;
    behind.place.leave(direct).await;
}

#[test]
fn a_black_hole_is_noticed_in_time() {
    alone("a_black_hole_is_noticed_in_time", quorum, black_hole);
}

async fn black_hole(place: Place) {
    let behind = Behind::start(place).await;
    let (place, proxy) = (&behind.place, &behind.proxy);
    let worker = worker(&behind.app, &*place.queue, 2, &place.journal()).spawn();
    assert!(worker.ready().await);
    let running = outlives::call(1, 0).queue(&place.queue);
    let running = running.send(&behind.app).await.expect("sent");
    place.line(1).await;
    proxy.set(Rules {
        black_hole: true,
        ..Rules::default()
    });
    let start = Instant::now();
    let sending = async {
        let sent = echo::call(2).queue(&place.queue).send(&behind.app).await;
        (sent.map(|_| ()).expect_err("no broker"), start.elapsed())
    };
    let (told, (error, sent)) = tokio::join!(
        async {
            place.line(2).await;
            start.elapsed()
        },
        sending
    );
    figure!(
        place,
        "the attempt is told after {told:.1?}; a send, after {sent:.1?}: {error}"
    );
    assert!(matches!(error, Error::Unconfirmed { .. }), "{error:?}");
    assert!(sent < SEND_TIMEOUT + Duration::from_secs(1), "{sent:?}");
    let limit = Duration::from_secs(2 * u64::from(HEARTBEAT) + 2);
    assert!(told < limit, "{told:?}");
    proxy.heal();
    assert_eq!(within("a result", running).await, Ok(1));
    worker.stop().await.expect("stopped");
    place.leave(behind.app).await;
}

#[test]
fn a_slow_link_is_not_taken_for_a_dead_one() {
    alone("a_slow_link_is_not_taken_for_a_dead_one", quorum, slow);
}

async fn slow(place: Place) {
    let behind = Behind::start(place).await;
    let (place, proxy) = (&behind.place, &behind.proxy);
    let worker = worker(&behind.app, &*place.queue, 2, &place.journal()).spawn();
    assert!(worker.ready().await);
    // What is declared on the way is declared now.
    let call = echo::call(0).queue(&place.queue);
    let first = call.send(&behind.app).await.expect("sent");
    assert_eq!(within("a result", first).await, Ok(0));
    proxy.set(Rules {
        latency: Duration::from_millis(300),
        jitter: Duration::from_millis(50),
        bytes_per_second: Some(4 * 1024),
        ..Rules::default()
    });
    let direct = place.app().await;
    let steady = super::tasks::steady::call(8_000).queue(&place.queue);
    let steady = within("sending", steady.send(&direct)).await.expect("sent");
    let start = Instant::now();
    for n in 0..4 {
        let call = echo::call(n).queue(&place.queue);
        let handle = within("sending", call.send(&direct)).await.expect("sent");
        assert_eq!(within("a result", handle).await, Ok(n));
    }
    figure!(
        place,
        "4 calls answered in {:.1?} over a slow link",
        start.elapsed()
    );
    let good = within("a long task", steady).await;
    assert_eq!(good, Ok(true), "its delivery stayed good");
    proxy.heal();
    worker.stop().await.expect("stopped");
    behind.app.close().await;
    behind.place.leave(direct).await;
}

#[test]
fn a_broker_that_freezes_loses_nothing() {
    alone("a_broker_that_freezes_loses_nothing", Node::start, frozen);
}

async fn frozen(node: Node) {
    let place = node.place().heartbeat(HEARTBEAT);
    let app = App::builder(&place.url).send_timeout(30 * garenne::SECOND);
    let app = app.connect().await.expect("the test's node");
    let worker = worker(&app, &*place.queue, 4, &place.journal()).spawn();
    assert!(worker.ready().await);
    // Not long enough to be noticed, then longer than two heartbeats.
    for (n, millis) in [(1, 1_500), (2, 8_000)] {
        let running = lasts::call(n, 500).queue(&place.queue);
        let running = running.send(&app).await.expect("sent");
        node.run("pause", &[]);
        let sent = arrives::call(n).queue(&place.queue);
        let sending = tokio::spawn({
            let app = app.clone();
            async move { sent.send(&app).await }
        });
        tokio::time::sleep(Duration::from_millis(millis)).await;
        node.run("resume", &[]);
        let back = now();
        let gap = gap(&place, n, back).await;
        figure!(
            place,
            "frozen for {millis} ms: the next call runs {gap:.0?} after the end of it"
        );
        assert!(gap < LONGEST, "{gap:?}");
        assert_eq!(within("what ran", running).await, Ok(n));
        let sent = within("sending", sending).await.expect("no panic");
        assert_eq!(within("what was sent", sent.expect("sent")).await, Ok(n));
    }
    let runs = place.lines();
    let of_first = runs.iter().filter(|line| line.starts_with("1 ")).count();
    assert_eq!(
        of_first, 1,
        "a call that was only late is not doubled: {runs:?}"
    );
    worker.stop().await.expect("stopped");
    app.close().await;
}
