//! Two schedulers in processes of their own, on a schedule of one second: the active one is killed, again and
//! again, and the broker goes away. No tick is lost, and what is sent twice has one id.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use garenne::{App, RunningWorker, SECOND, Scheduler, every};

use super::child::signal;
use super::node::Node;
use super::place::{Place, aside, figure, long, on};
use super::tasks::{beat, now, worker};

const URL: &str = "GARENNE_SCHEDULER_URL";
const QUEUE: &str = "GARENNE_SCHEDULER_QUEUE";
/// A tick that comes later than this after another one's death is too late.
const TAKEOVER: Duration = Duration::from_secs(8);

on!(aside a_killed_schedulers_ticks_are_sent_by_another: sqlite quorum classic);
on!(aside a_frozen_scheduler_does_no_harm: sqlite quorum);

#[test]
fn ticks_outlive_a_broker_that_is_stopped() {
    aside(
        "ticks_outlive_a_broker_that_is_stopped",
        Node::start,
        |node| restart(node, "stop"),
    );
}

#[test]
fn ticks_outlive_a_broker_that_is_killed() {
    aside(
        "ticks_outlive_a_broker_that_is_killed",
        Node::start,
        |node| restart(node, "kill"),
    );
}

/// A scheduler process, killed when it is dropped.
struct SchedulerProcess(Child);

impl SchedulerProcess {
    fn start(place: &Place) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command
            .args([
                "--exact",
                "faults::schedulers::child_scheduler",
                "--ignored",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(URL, &place.url)
            .env(QUEUE, &place.queue)
            .stdout(Stdio::null());
        Self(command.spawn().expect("a child"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }
}

impl Drop for SchedulerProcess {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "no test, but what the scheduler processes of the others run"]
fn child_scheduler() {
    let variable = |name| std::env::var(name).ok();
    let Some(url) = variable(URL) else { return };
    let queue = variable(QUEUE).expect("set with the URL");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let app = App::connect(url).await.expect("the test's broker");
        let call = beat::call(std::process::id()).queue(queue);
        Scheduler::new(&app)
            .add("beat", every(SECOND), call)
            .run(garenne::shutdown_signal())
            .await
            .expect("a good end");
    });
}

/// A tick that came.
struct Tick {
    id: String,
    sender: u32,
    /// Since 1970.
    came: Duration,
}

impl Tick {
    fn read(line: &str) -> Self {
        let fields: Vec<&str> = line.split(' ').collect();
        let [id, sender, came] = fields[..] else {
            panic!("id, sender and time: {line}");
        };
        Self {
            id: id.to_owned(),
            sender: sender.parse().expect("a process"),
            came: Duration::from_nanos(came.parse().expect("a time")),
        }
    }
}

fn since_1970() -> Duration {
    Duration::from_nanos(u64::try_from(now()).expect("this century"))
}

/// The ticks that came, and the worker that takes them.
struct Ticks<'a> {
    place: &'a Place,
    worker: RunningWorker,
    came: usize,
}

impl<'a> Ticks<'a> {
    fn of(app: &App, place: &'a Place) -> Self {
        let worker = worker(app, &*place.queue, 4, &place.journal());
        Self {
            place,
            worker: worker.deaf_after(None).spawn(),
            came: 0,
        }
    }

    async fn next(&mut self) -> Tick {
        self.came += 1;
        let lines = self.place.line(self.came).await;
        Tick::read(&lines[self.came - 1])
    }

    /// The next tick of another sender than `old`: who sent it and how long after `since` it came.
    async fn tick_of_another(&mut self, old: u32, since: Duration) -> (u32, Duration) {
        loop {
            let tick = self.next().await;
            if tick.sender != old {
                return (tick.sender, tick.came.saturating_sub(since));
            }
        }
    }

    /// That no second is missing, and each has one id; prints what came.
    async fn check(self, what: &str) {
        self.worker.stop().await.expect("stopped");
        let place = self.place;
        let came: Vec<Tick> = place.lines().iter().map(|line| Tick::read(line)).collect();
        let mut seconds: BTreeMap<u64, Vec<&Tick>> = BTreeMap::new();
        for tick in &came {
            let (name, time) = tick.id.split_once('@').expect("name@time");
            let time: jiff::Timestamp = time.parse().expect("a time");
            assert_eq!((name, time.subsec_nanosecond()), ("beat", 0), "{}", tick.id);
            let second = time.as_second().unsigned_abs();
            seconds.entry(second).or_default().push(tick);
        }
        let first = *seconds.keys().next().expect("a tick");
        let last = *seconds.keys().next_back().expect("a tick");
        let expected = usize::try_from(last - first + 1).expect("few");
        let mut arrivals: Vec<Duration> = seconds.values().map(|all| all[0].came).collect();
        arrivals.sort();
        let gaps = arrivals.windows(2).map(|pair| pair[1] - pair[0]);
        figure!(
            place,
            "{what}: {expected} ticks due, {} came, {} of them once more under the same id, longest silence {:.1?}",
            seconds.len(),
            came.len() - seconds.len(),
            gaps.max().unwrap_or_default()
        );
        let missing: Vec<u64> = (first..=last)
            .filter(|s| !seconds.contains_key(s))
            .collect();
        assert_eq!(missing, [0; 0], "of {first} to {last}");
        let mut ids: Vec<&str> = came.iter().map(|tick| &*tick.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), seconds.len(), "each second has one id");
    }
}

async fn a_killed_schedulers_ticks_are_sent_by_another(place: Place) {
    let (kills, pause) = match long() {
        true => (20, 13),
        false => (5, 2),
    };
    let app = place.app().await;
    let mut ticks = Ticks::of(&app, &place);
    let mut processes = [
        SchedulerProcess::start(&place),
        SchedulerProcess::start(&place),
    ];
    let start = Instant::now();
    let mut active = ticks.next().await.sender;
    let mut takeovers = Vec::new();
    for kill in 0..kills {
        for _ in 0..pause {
            ticks.next().await;
        }
        // At different moments of a second: before a tick, while it is sent, and after.
        tokio::time::sleep(Duration::from_millis(90 * (kill % 11))).await;
        let process = processes
            .iter_mut()
            .find(|process| process.0.id() == active);
        let process = process.expect("one of the two");
        process.kill();
        let killed = since_1970();
        *process = SchedulerProcess::start(&place);
        let (next, after) = ticks.tick_of_another(active, killed).await;
        assert!(after < TAKEOVER, "{after:?}");
        takeovers.push(after);
        active = next;
    }
    for _ in 0..pause {
        ticks.next().await;
    }
    takeovers.sort();
    let what = format!(
        "{kills} kills in {:.0?}, the next tick {:.1?} later (median), {:.1?} (longest)",
        start.elapsed(),
        takeovers[takeovers.len() / 2],
        takeovers[takeovers.len() - 1]
    );
    drop(processes);
    ticks.check(&what).await;
    place.leave(app).await;
}

/// Stopped by a signal for longer than its broker waits for it, a scheduler comes back and finds another active.
async fn a_frozen_scheduler_does_no_harm(place: Place) {
    let place = match place.broker {
        "SQLite" => place,
        _ => place.heartbeat(2),
    };
    let app = place.app().await;
    let mut ticks = Ticks::of(&app, &place);
    let processes = [
        SchedulerProcess::start(&place),
        SchedulerProcess::start(&place),
    ];
    let active = ticks.next().await.sender;
    ticks.next().await;
    signal(active, "STOP");
    let frozen = since_1970();
    if place.broker == "SQLite" {
        // Its process lives: nobody takes its place, and its ticks are late.
        tokio::time::sleep(5 * SECOND).await;
        signal(active, "CONT");
    } else {
        let (_, after) = ticks.tick_of_another(active, frozen).await;
        figure!(place, "a frozen scheduler is replaced after {after:.1?}");
        assert!(after < 3 * TAKEOVER, "{after:?}");
        ticks.next().await;
        signal(active, "CONT");
    }
    for _ in 0..6 {
        ticks.next().await;
    }
    drop(processes);
    ticks.check("one was frozen").await;
    place.leave(app).await;
}

async fn restart(node: Node, how: &str) {
    let place = node.place();
    let app = place.app().await;
    let mut ticks = Ticks::of(&app, &place);
    let processes = [
        SchedulerProcess::start(&place),
        SchedulerProcess::start(&place),
    ];
    for _ in 0..4 {
        ticks.next().await;
    }
    node.remember_queues();
    node.run(how, &[]);
    let down = Instant::now();
    node.run("start", &[]);
    figure!(place, "{how}: away for {:.1?}", down.elapsed());
    for _ in 0..20 {
        ticks.next().await;
    }
    drop(processes);
    ticks.check(how).await;
    app.close().await;
}

/// What is held for longer than RabbitMQ's consumer timeout is taken back, unless it is renewed.
#[test]
fn a_lease_outlives_the_consumer_timeout() {
    if long() {
        aside("a_lease_outlives_the_consumer_timeout", Node::start, idle);
    }
}

async fn idle(node: Node) {
    let set = "application:set_env(rabbit, consumer_timeout, 70000), \
               application:set_env(rabbit, channel_tick_interval, 1000).";
    node.run("ctl", &["eval", set]);
    let hold = async |queue_type: &str| {
        let mut place = node.place();
        place.url.push_str(&format!("?queue_type={queue_type}"));
        let app = place.app().await;
        let mut lease = app.broker().lease(queue_type).await.expect("held");
        lease.write(b"kept".to_vec()).await.expect("written");
        let lost = lease.lost().clone();
        let lost = tokio::time::timeout(130 * SECOND, lost.stale()).await;
        assert!(lost.is_err(), "{queue_type}");
        lease.write(b"kept".to_vec()).await.expect("still held");
        app.close().await;
    };
    tokio::join!(hold("quorum"), hold("classic"));
}
