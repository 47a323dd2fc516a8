//! A damaged file, and what a power cut leaves of one: reported, never wiped, and nothing synced is lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use garenne::broker::{Broker, Queue};
use garenne::error::Error;

use super::place::{Place, close, next, open, to, try_open};

const PAGE: usize = 4096;
const MESSAGES: usize = 60;

fn wal(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Evenly distributed, and the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % sides
    }
}

/// The ids of all messages in `q`, or what is said instead.
async fn read(file: &Path) -> Result<Vec<usize>, Error> {
    let broker = try_open(file, "").await?;
    let ready = broker.depth("q").await?.ready;
    let mut consumer = broker.consume(&Queue::new("q"), 10).await?;
    let mut ids = Vec::new();
    while (ids.len() as u64) < ready {
        let next = tokio::time::timeout(Duration::from_secs(5), consumer.next());
        let next = next.await.expect("a message or an error, but no silence");
        let Some(next) = next else { break };
        let delivery = next?;
        ids.push(delivery.message.id.parse().unwrap_or(usize::MAX));
        delivery.ack(None).await?;
    }
    drop(consumer);
    broker.close().await;
    Ok(ids)
}

/// A closed file with messages, as bytes.
async fn file_of_messages(place: &Place) -> Vec<u8> {
    let broker = open(&place.file()).await;
    broker.declare(&Queue::new("q")).await.unwrap();
    for n in 0..MESSAGES {
        let mut publish = to("q", &n.to_string());
        publish.message.body = vec![b'x'; 1000].into();
        broker.publish(publish).await.unwrap();
    }
    close(&[&broker]).await;
    drop(broker);
    assert!(!wal(&place.file()).exists(), "all is in the file itself");
    std::fs::read(place.file()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_reported_and_left_alone() {
    let place = Place::new();
    let sound = file_of_messages(&place).await;
    let (mut reported, mut harmless) = (0, 0);
    for page in 0..sound.len() / PAGE {
        let file = place.0.join(format!("damaged-{page}.db"));
        let mut damaged = sound.clone();
        for (at, byte) in damaged[page * PAGE..][..PAGE].iter_mut().enumerate() {
            *byte = (at * 31 % 251) as u8;
        }
        std::fs::write(&file, &damaged).unwrap();
        match read(&file).await {
            Ok(ids) => {
                // A page of an index or table that holds nothing now.
                assert_eq!(ids, (0..MESSAGES).collect::<Vec<_>>(), "page {page}");
                harmless += 1;
            }
            Err(error) => {
                let text = error.to_string();
                let named = text.contains("is damaged") || text.contains("not a SQLite database");
                assert!(named && text.contains(".db"), "page {page}: {text}");
                reported += 1;
            }
        }
        let left = std::fs::metadata(&file).unwrap().len() as usize;
        assert!(left >= sound.len(), "page {page}: it is not wiped");
    }
    println!("{reported} damaged pages reported, {harmless} harmless");
    assert!(reported > 10, "{reported}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_says_why() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let queue = Queue::new("q");
    broker.declare(&queue).await.unwrap();
    for id in ["cut", "sound"] {
        broker.publish(to("q", id)).await.unwrap();
    }
    let db = rusqlite::Connection::open(place.file()).unwrap();
    let cut = "UPDATE message SET envelope = '{\"id\":' WHERE envelope ->> 'id' = 'cut'";
    assert_eq!(db.execute(cut, ()).unwrap(), 1);
    drop(db);
    let mut consumer = broker.consume(&queue, 2).await.unwrap();
    let spoiled = next(&mut consumer).await;
    let why = spoiled.message.task().unwrap_err().to_string();
    assert!(
        why.contains("its envelope in the file cannot be read: EOF"),
        "{why}"
    );
    assert_eq!(*spoiled.message.body, *to("q", "cut").message.body);
    spoiled.ack(None).await.unwrap();
    let sound = next(&mut consumer).await;
    assert_eq!(sound.message, to("q", "sound").message);
    sound.ack(None).await.unwrap();
    drop(consumer);
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_end_in_messages_or_errors() {
    let place = Place::new();
    let sound = file_of_messages(&place).await;
    let mut dice = Dice(7);
    for round in 0..20 {
        let file = place.0.join(format!("flipped-{round}.db"));
        let mut damaged = sound.clone();
        for _ in 0..20 {
            let at = 100 + dice.roll(damaged.len() - 100);
            damaged[at] ^= 1 << dice.roll(8);
        }
        std::fs::write(&file, &damaged).unwrap();
        if let Err(error) = read(&file).await {
            assert!(error.to_string().contains(".db"), "{error}");
        }
        assert!(std::fs::metadata(&file).unwrap().len() as usize >= sound.len());
    }
}

/// The file and its log after each of some commits, as a power cut could find them at the earliest: what
/// was synced, and nothing after it.
async fn states(place: &Place, commits: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let broker = open(&place.file()).await;
    broker.declare(&Queue::new("q")).await.unwrap();
    let mut states = Vec::new();
    for n in 0..commits {
        broker.publish(to("q", &n.to_string())).await.unwrap();
        let file = std::fs::read(place.file()).unwrap();
        states.push((file, std::fs::read(wal(&place.file())).unwrap()));
    }
    close(&[&broker]).await;
    states
}

fn restore(file: &Path, state: (&[u8], &[u8])) {
    std::fs::write(file, state.0).unwrap();
    std::fs::write(wal(file), state.1).unwrap();
}

/// Whatever a commit under way has left of itself in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_log_keeps_every_commit_before() {
    const COMMITS: usize = 30;
    let place = Place::new();
    let states = states(&place, COMMITS).await;
    let mut dice = Dice(3);
    for (number, pair) in states.windows(2).enumerate() {
        let [(file, log), (_, longer)] = pair else {
            continue;
        };
        if longer.len() < log.len() || longer[..log.len()] != log[..] {
            continue;
        }
        let path = place.0.join(format!("torn-{number}.db"));
        // The sectors of the next commit reached the disk in any order, or not at all.
        let mut torn = longer.clone();
        torn.truncate(log.len() + dice.roll(longer.len() - log.len() + 1));
        for sector in torn[log.len()..].chunks_mut(512) {
            match dice.roll(3) {
                0 => sector.fill(0),
                1 => sector
                    .iter_mut()
                    .for_each(|byte| *byte = dice.roll(256) as u8),
                _ => {}
            }
        }
        restore(&path, (file, &torn));
        let ids = read(&path).await.unwrap();
        let confirmed: Vec<_> = (0..=number).collect();
        let more: Vec<_> = (0..=number + 1).collect();
        assert!(
            ids == confirmed || ids == more,
            "after commit {number}: {ids:?}"
        );
    }
}

/// What was cut off is gone; what stands before is read, and nothing is made up.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_log_ends_where_it_is_cut() {
    let place = Place::new();
    let states = states(&place, 20).await;
    let (file, log) = states.last().unwrap();
    let mut seen = 0;
    for cut in (0..log.len()).step_by(log.len() / 40).chain([log.len()]) {
        let path = place.0.join(format!("cut-{cut}.db"));
        restore(&path, (file, &log[..cut]));
        // The first commits made the tables: without them it is a new file.
        let ids = match read(&path).await {
            Ok(ids) => ids,
            Err(error) => {
                assert!(error.to_string().contains("no such queue"), "{error}");
                continue;
            }
        };
        assert!(ids.iter().copied().eq(0..ids.len()), "{cut}: {ids:?}");
        assert!(ids.len() >= seen, "a longer log has more");
        seen = ids.len();
    }
    assert_eq!(seen, 20);
}

/// A power cut while the log is copied into the file: some pages have arrived, others not.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_checkpoint_loses_nothing() {
    const COMMITS: usize = 40;
    let place = Place::new();
    let states = states(&place, COMMITS).await;
    let after = std::fs::read(place.file()).unwrap();
    let (before, log) = states.last().unwrap();
    let mut dice = Dice(11);
    for round in 0..20 {
        let path = place.0.join(format!("checkpoint-{round}.db"));
        let mut torn = before.clone();
        torn.resize(after.len().max(before.len()), 0);
        for (sector, new) in torn.chunks_mut(512).zip(after.chunks(512)) {
            if dice.roll(2) == 0 {
                sector[..new.len()].copy_from_slice(new);
            }
        }
        restore(&path, (&torn, log));
        let ids = read(&path).await.unwrap();
        assert_eq!(ids, (0..COMMITS).collect::<Vec<_>>(), "round {round}");
    }
}
