//! A mixed fleet: two Python and two Rust workers, chains of four hops that cross languages, and a worker killed
//! every second. None may be lost.
//!
//! `GARENNE_TEST_LONG=1` sends 10,000 chains instead of 200. The newest Celery of `GARENNE_TEST_CELERY_VENVS` is
//! taken. Every hop writes a line to a file, in one write, before its delivery is acknowledged: what ran is known
//! without any reply.

#[path = "fleet/journal.rs"]
mod journal;
#[path = "fleet/member.rs"]
mod member;
mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use garenne::{App, Context, Partial, Worker, task};
use journal::{Journal, Seen};
use member::{Language, Member, Place};

/// How many chains a short and a long run send.
const CHAINS: [u32; 2] = [200, 10_000];
/// How many hops a chain has.
const HOPS: u32 = 4;
const BETWEEN_KILLS: Duration = Duration::from_secs(1);
/// Chains that do not move for so long, with nobody killed any more, are lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// Kills end after this time: what is left must then be done in peace.
const LONGEST: Duration = Duration::from_secs(1800);

#[task(name = "fleet.rust")]
async fn hop(_ctx: &Context, number: u32, place: u32, journal: &Journal) -> Result<u32, String> {
    tokio::time::sleep(Duration::from_millis(25)).await;
    journal
        .note(number, place)
        .map_err(|error| error.to_string())?;
    Ok(number)
}

#[tokio::main]
async fn main() -> ExitCode {
    if let Some(place) = member::asked_to_work() {
        work(place).await;
        return ExitCode::SUCCESS;
    }
    let Some(place) = Place::new() else {
        return ExitCode::SUCCESS;
    };
    let long = std::env::var_os("GARENNE_TEST_LONG").is_some();
    run(&place, CHAINS[usize::from(long)]).await
}

/// A Rust worker, in a process of its own.
async fn work(place: Place) {
    let app = App::connect(&*place.broker).await.expect("RabbitMQ");
    let worker = Worker::new(&app).queue(place.rust_queue(), 4);
    let worker = worker.state(Journal::new(&place.journal));
    worker.run(garenne::shutdown_signal()).await.expect("works");
}

async fn run(place: &Place, chains: u32) -> ExitCode {
    let app = App::connect(&*place.broker).await.expect("RabbitMQ");
    app.declare(place.rust_queue()).await.expect("declared");
    let mut fleet: Vec<Member> = [Language::Python, Language::Rust]
        .into_iter()
        .cycle()
        .take(4)
        .map(|language| Member::start(place, language))
        .collect();
    member::python_is_there(&app, place).await;

    let began = Instant::now();
    let half = chains / 2;
    let mut python = place.sends(half, chains - half);
    let sending = tokio::spawn(send(app.clone(), place.clone(), half));
    let mut kills = 0_usize;
    let (mut progress, mut moved) = (0, Instant::now());
    let seen = loop {
        let seen = Seen::of(&place.journal, chains, HOPS);
        if seen.done == chains || moved.elapsed() > PATIENCE {
            break seen;
        }
        if seen.runs > progress {
            (progress, moved) = (seen.runs, Instant::now());
        }
        tokio::time::sleep(BETWEEN_KILLS).await;
        if began.elapsed() < LONGEST {
            let victim = kills % fleet.len();
            fleet[victim].kill();
            fleet[victim] = Member::start(place, fleet[victim].language);
            kills += 1;
        }
    };
    let took = began.elapsed();
    sending.await.expect("no panic");
    assert!(python.wait().expect("it ends").success(), "Python has sent");
    drop(fleet);
    let lost = chains - seen.done;
    println!(
        "fleet: 2 Python (Celery {}) and 2 Rust workers, {chains} chains of {HOPS} hops: {lost} lost, {} hops ran more \
         than once, {} runs in all, {kills} kills, {:.1} s",
        place.version,
        seen.repeated,
        seen.runs,
        took.as_secs_f64()
    );
    for queue in [place.queue.clone(), place.rust_queue()] {
        app.delete(&queue).await.expect("deleted");
    }
    app.close().await;
    std::fs::remove_file(&place.journal).ok();
    match lost {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Sends chains that begin in Rust.
async fn send(app: App, place: Place, count: u32) {
    let rust = place.rust_queue();
    let python = |at: u32| {
        let step: Partial<u32, u32> = Partial::named("fleet.python").queue(&*place.queue);
        step.arg(at).expect("JSON").ignore_result()
    };
    for number in 0..count {
        let first = hop::call(number, 1).queue(&*rust).ignore_result();
        let third = hop::partial(3).queue(&*rust).ignore_result();
        let chain = first.then(python(2)).then(third).then(python(4));
        let _ = chain.send(&app).await.expect("sent");
    }
}
