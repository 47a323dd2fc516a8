//! Joins whose members' processes are killed, or lose their connections, all the time: each body goes out
//! once, with every part.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use garenne::Queue;
use garenne::broker::{Broker, Delivery, Join, Publish, Route, connect};
use garenne::message::{Arguments, Message};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::place::{Place, figure, on};
use super::proxy::Proxy;
use crate::support::within;

const URL: &str = "GARENNE_JOINS_URL";
const QUEUE: &str = "GARENNE_JOINS_QUEUE";
const READY: &str = "members are taken";
const JOINS: usize = 100;
const PARTS: u32 = 6;
const SLOTS: usize = 4;
/// In how many milliseconds after a wave is permitted the harm is done.
const HARM_WITHIN: u64 = 50;
/// How long to watch for a body that comes twice.
const A_MOMENT: Duration = Duration::from_millis(500);

on!(alone joins_fire_once_though_their_workers_are_killed: sqlite quorum classic);
on!(alone joins_fire_once_though_connections_break: quorum classic);

fn publish(route: Route, message: Message) -> Publish {
    Publish {
        route,
        message,
        delay: Duration::ZERO,
        deadline: Duration::from_secs(30),
    }
}

fn message(id: &str) -> Message {
    Message::new(id.to_owned(), "a.member", &Arguments::default())
}

async fn open(url: &str) -> Arc<dyn Broker> {
    let url = url.parse().expect("a URL");
    within("a connection", connect(&url, "joins"))
        .await
        .expect("the test's broker")
}

/// What a member does: its part goes first. An error means that it comes again.
async fn bring(delivery: Delivery) {
    let join = delivery.message.text("join").expect("a join").to_owned();
    let part = publish(
        Route::Join {
            join,
            parts: PARTS,
            fire: false,
        },
        message(&delivery.message.id),
    );
    let _ = delivery.ack([part]).await;
}

async fn take_members(broker: &dyn Broker, queue: &str, ready: impl FnOnce()) {
    let mut members = broker
        .consume(&Queue::new(queue), SLOTS)
        .await
        .expect("a consumer");
    ready();
    while let Some(delivery) = members.next().await {
        tokio::spawn(bring(delivery.expect("a delivery")));
    }
}

#[test]
#[ignore = "no test, but what the members' processes of the others run"]
fn child_member() {
    let Ok(url) = std::env::var(URL) else { return };
    let queue = std::env::var(QUEUE).expect("set with the URL");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let broker = open(&url).await;
        take_members(&*broker, &queue, || println!("\n{READY}")).await;
    });
}

/// A process that takes members, killed when it is dropped.
struct MemberProcess {
    child: Child,
    /// Kept open: a process that cannot print fails.
    _out: BufReader<ChildStdout>,
}

impl MemberProcess {
    fn start(place: &Place) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "faults::joins::child_member", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env(URL, &place.url)
            .env(QUEUE, &place.queue)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut lines = out.by_ref().lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(READY)), "it is ready");
        Self { child, _out: out }
    }
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The joins of a test, and the queue that their bodies go to.
struct Joins {
    broker: Arc<dyn Broker>,
    bodies: Queue,
    names: Vec<String>,
    /// One permit for each wave of members that may be sent.
    waves: Arc<Semaphore>,
}

/// Opens the joins, and sends one member of each whenever a wave is permitted: they are complete with the
/// last wave only, however fast the machine.
async fn send(broker: &Arc<dyn Broker>, place: &Place) -> Joins {
    let bodies = Queue::new(format!("{}.bodies", place.queue));
    for queue in [&bodies, &Queue::new(&place.queue)] {
        within("a queue", broker.declare(queue))
            .await
            .expect("declared");
    }
    let name = |n| format!("{}.garenne.join.{n}", place.queue);
    let names: Vec<String> = (0..JOINS).map(name).collect();
    let opened = iter(&names).map(|name| {
        broker.open_join(Join {
            name: name.clone(),
            parts: PARTS,
            body: publish(Route::Queue(bodies.name().to_owned()), message(name)),
        })
    });
    let opened = opened.buffer_unordered(16).collect::<Vec<_>>();
    for outcome in within("open joins", opened).await {
        outcome.expect("opened");
    }
    let waves = Arc::new(Semaphore::new(0));
    tokio::spawn(send_waves(
        broker.clone(),
        place.queue.clone(),
        names.clone(),
        waves.clone(),
    ));
    Joins {
        broker: broker.clone(),
        bodies,
        names,
        waves,
    }
}

async fn send_waves(
    broker: Arc<dyn Broker>,
    queue: String,
    joins: Vec<String>,
    waves: Arc<Semaphore>,
) {
    for part in 0..PARTS {
        waves.acquire().await.expect("open").forget();
        let members = joins.iter().map(|join| {
            let mut member = message(&format!("{join} {part}"));
            member.set("join", join.as_str());
            publish(Route::Queue(queue.clone()), member)
        });
        let members: Vec<Publish> = members.collect();
        let sent = iter(members).map(|member| broker.publish(member));
        let sent = sent.buffer_unordered(64).collect::<Vec<_>>();
        for outcome in within("members", sent).await {
            outcome.expect("sent");
        }
    }
}

/// Takes the bodies until there is one of each join, and a moment longer; harms what brings the parts while
/// each wave of them is on its way, at ever other moments, `pace` milliseconds apart and up to three times
/// that.
async fn assert_each_fires_once(place: &Place, joins: Joins, pace: u64, mut harm: impl FnMut(u64)) {
    let Joins {
        broker,
        bodies,
        names: joins,
        waves,
    } = joins;
    let start = Instant::now();
    let mut consumer = broker.consume(&bodies, 100).await.expect("a consumer");
    let mut fired = BTreeMap::<String, usize>::new();
    let (mut harmed, mut complete) = (0, None::<Instant>);
    let (mut next, mut wave_is_next) = (Instant::now(), true);
    loop {
        if complete.is_some_and(|since| since.elapsed() > A_MOMENT) {
            break;
        }
        tokio::select! {
            next = consumer.next() => {
                let delivery = next.expect("open").expect("a delivery");
                *fired.entry(delivery.message.id.clone()).or_default() += 1;
                delivery.ack(None).await.expect("settled");
                if fired.len() == joins.len() && complete.is_none() {
                    complete = Some(Instant::now());
                }
            }
            () = tokio::time::sleep_until(next), if complete.is_none() => {
                let until_next = if wave_is_next {
                    waves.add_permits(1);
                    harmed * 37 % HARM_WITHIN
                } else {
                    harm(harmed);
                    harmed += 1;
                    pace + harmed * 37 % (2 * pace)
                };
                wave_is_next = !wave_is_next;
                next = Instant::now() + Duration::from_millis(until_next);
            }
            () = sleep(A_MOMENT), if complete.is_some() => {}
        }
    }
    let took = complete
        .map(|complete| complete - start)
        .unwrap_or_default();
    figure!(
        place,
        "{} joins fired in {took:.1?}, harmed {harmed} times",
        fired.len()
    );
    assert!(fired.values().all(|times| *times == 1), "{fired:?}");
    assert!(harmed + 1 >= u64::from(PARTS), "harmed {harmed} times only");
    for join in joins {
        let parts = within("parts", broker.parts(&join, usize::MAX))
            .await
            .expect("read");
        assert_eq!(parts.map_or(0, |parts| parts.len()), PARTS as usize);
        within("a closed join", broker.close_join(&join))
            .await
            .expect("closed");
    }
    for queue in [bodies, Queue::new(&place.queue)] {
        for name in [queue.dead_letter_name(), queue.name().to_owned()] {
            within("a queue's end", broker.delete(&name))
                .await
                .expect("deleted");
        }
    }
}

async fn joins_fire_once_though_their_workers_are_killed(place: Place) {
    let broker = open(&place.url).await;
    let joins = send(&broker, &place).await;
    let mut processes = [MemberProcess::start(&place), MemberProcess::start(&place)];
    let kill = |n: u64| {
        let process = &mut processes[n as usize % 2];
        *process = tokio::task::block_in_place(|| {
            process.child.kill().expect("killed");
            MemberProcess::start(&place)
        });
    };
    assert_each_fires_once(&place, joins, 15, kill).await;
    broker.close().await;
}

async fn joins_fire_once_though_connections_break(place: Place) {
    let broker = open(&place.url).await;
    let joins = send(&broker, &place).await;
    let proxies = [
        Proxy::start(&place.server()).await,
        Proxy::start(&place.server()).await,
    ];
    let mut workers = Vec::new();
    for proxy in &proxies {
        let (broker, queue) = (
            open(&place.through(proxy.address)).await,
            place.queue.clone(),
        );
        workers.push(tokio::spawn(async move {
            take_members(&*broker, &queue, || {}).await;
        }));
    }
    assert_each_fires_once(&place, joins, 150, |n| {
        let proxy = &proxies[n as usize % 2];
        match n % 3 {
            0 => proxy.cut(),
            1 => proxy.reset(),
            _ => proxy.half_close(),
        }
    })
    .await;
    for worker in workers {
        worker.abort();
    }
    broker.close().await;
}
