//! Thousands of chords, and `kill -9` of a worker every second: each body runs with its members' results.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use garenne::{App, Error, Failure, group};
use tokio::task::JoinSet;

use super::child::Spawn;
use super::place::{Place, figure, long, on};
use super::tasks::{bring, gather};

const MEMBERS: u64 = 50;
/// Chords that are under way at a time.
const WINDOW: usize = 50;
const SLOTS: usize = 16;

on!(alone each_body_runs_with_its_members_results: sqlite quorum);

/// How many chords: `GARENNE_TEST_CHORDS`, or as many as the kind of run wants.
fn chords() -> u64 {
    let asked = std::env::var("GARENNE_TEST_CHORDS").ok();
    let usual = if long() { 10_000 } else { 100 };
    asked.map_or(usual, |count| count.parse().expect("a number of chords"))
}

async fn each_body_runs_with_its_members_results(place: Place) {
    let (app, start) = (place.app().await, Instant::now());
    // Calls that die with a worker every second are no poison.
    let worker = || Spawn::at(&place).slots(SLOTS).deliveries(100).start();
    let mut workers = [worker(), worker()];
    let mut killed = BTreeSet::new();
    let mut storm = tokio::time::interval(Duration::from_secs(1));
    let (mut running, mut ids) = (JoinSet::new(), BTreeMap::new());
    let mut to_come = 0..chords();
    storm.tick().await;
    loop {
        while running.len() < WINDOW
            && let Some(chord) = to_come.next()
        {
            running.spawn(run(app.clone(), place.queue.clone(), chord));
        }
        tokio::select! {
            ended = running.join_next() => match ended {
                None => break,
                Some(ended) => {
                    let (chord, id) = ended.expect("no panic");
                    ids.insert(chord, id);
                }
            },
            _ = storm.tick() => {
                let struck = &mut workers[killed.len() % 2];
                struck.kill();
                killed.insert(struck.id());
                *struck = worker();
            }
        }
    }
    let took = start.elapsed();
    let starts = check(&place.lines(), &ids, &killed);
    figure!(
        place,
        "{} chords of {MEMBERS} in {took:.1?} ({:.0} calls/s), {} workers killed; {} bodies begun twice or more, \
         all but the last time in a worker that was killed",
        ids.len(),
        (ids.len() as u64 * (MEMBERS + 1)) as f64 / took.as_secs_f64(),
        killed.len(),
        starts
    );
    let dead = app.dead_letters(&place.queue).count().await;
    assert_eq!(dead.expect("counted"), 0);
    drop(workers);
    place.leave(app).await;
}

/// Sends a chord and awaits it; returns its body's id.
async fn run(app: App, queue: String, chord: u64) -> (u64, String) {
    let handle = loop {
        let members = (0..MEMBERS).map(|n| bring::call(chord, n).queue(&*queue));
        let whole = group(members).then(gather::partial(chord).queue(&*queue));
        match whole.send(&app).await {
            Ok(handle) => break handle,
            // A busy RabbitMQ may not open a join within 10 s: nothing is sent then.
            Err(error @ Error::Unavailable { .. }) => println!("chord {chord} again: {error}"),
            Err(error) => panic!("chord {chord}: {error}"),
        }
    };
    let ended: Result<u64, Failure> = handle.result().await;
    assert_eq!(ended, Ok(chord));
    (chord, handle.id().to_owned())
}

/// Whether each body has begun with its own members' results and under its own id, and no other time than the
/// last one in a worker that lived on. Returns how many have begun more than once.
fn check(lines: &[String], ids: &BTreeMap<u64, String>, killed: &BTreeSet<u32>) -> usize {
    let mut begun: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [chord, id, process, right] = words[..] else {
            panic!("a line of another kind: {line}");
        };
        let chord = chord.parse().expect("a number");
        assert_eq!(right, "true", "chord {chord} has other results");
        assert_eq!(
            Some(id),
            ids.get(&chord).map(String::as_str),
            "chord {chord}"
        );
        begun
            .entry(chord)
            .or_default()
            .push(process.parse().expect("a number"));
    }
    assert_eq!(begun.len(), ids.len(), "each body has begun");
    for (chord, processes) in &begun {
        let (_, before) = processes.split_last().expect("at least once");
        assert!(
            before.iter().all(|process| killed.contains(process)),
            "chord {chord} twice in {processes:?}"
        );
    }
    begun
        .values()
        .filter(|processes| processes.len() > 1)
        .count()
}
