//! Named values that one holder at a time holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use garenne::broker::{Broker, Lease};
use garenne::error::Error;
use tokio::time::timeout;

use super::fixture::{A_MOMENT, Fixture, within};

async fn hold(broker: &Arc<dyn Broker>, name: &str) -> Box<dyn Lease> {
    within(broker.lease(name)).await.expect("a lease")
}

async fn write(lease: &mut Box<dyn Lease>, value: &str) {
    within(lease.write(value.into())).await.expect("written");
}

fn text(lease: &dyn Lease) -> Option<&str> {
    lease
        .value()
        .map(|value| std::str::from_utf8(value).expect("text"))
}

pub(crate) async fn a_lease_is_held_by_one_at_a_time(f: &Fixture) {
    let name = f.queue("lease").name().to_owned();
    let first = hold(&f.publisher, &name).await;
    let mut second = f.consumer.lease(&name);
    assert!(
        timeout(2 * A_MOMENT, &mut second).await.is_err(),
        "one holds it"
    );
    assert!(!first.lost().is_stale());
    within(first.release()).await;
    let second = within(second).await.expect("its turn");
    assert!(!second.lost().is_stale());
    within(second.release()).await;
}

pub(crate) async fn a_lease_keeps_its_value(f: &Fixture) {
    let name = f.queue("lease").name().to_owned();
    let mut lease = hold(&f.publisher, &name).await;
    write(&mut lease, "one").await;
    write(&mut lease, "two").await;
    assert_eq!(text(&*lease), Some("two"));
    within(lease.release()).await;
    let read = within(f.consumer.read_lease(&name))
        .await
        .expect("readable");
    assert_eq!(read.as_deref(), Some(&b"two"[..]));
    let mut lease = hold(&f.consumer, &name).await;
    assert_eq!(text(&*lease), Some("two"));
    write(&mut lease, "").await;
    within(lease.release()).await;
    assert_eq!(text(&*hold(&f.publisher, &name).await), Some(""));
}

pub(crate) async fn a_lease_without_a_value_has_none(f: &Fixture) {
    let name = f.queue("lease").name().to_owned();
    assert_eq!(
        within(f.consumer.read_lease(&name))
            .await
            .expect("readable"),
        None
    );
    let lease = hold(&f.publisher, &name).await;
    assert_eq!(lease.value(), None);
    within(lease.release()).await;
    assert_eq!(
        within(f.consumer.read_lease(&name))
            .await
            .expect("readable"),
        None
    );
    assert_eq!(hold(&f.consumer, &name).await.value(), None);
}

pub(crate) async fn a_value_of_a_mebibyte_is_kept_whole(f: &Fixture) {
    let name = f.queue("lease").name().to_owned();
    let value: Vec<u8> = (0..1 << 20).map(|n: u32| n as u8).collect();
    let mut lease = hold(&f.publisher, &name).await;
    within(lease.write(value.clone())).await.expect("written");
    within(lease.release()).await;
    let lease = hold(&f.consumer, &name).await;
    assert!(lease.value() == Some(&value));
}

pub(crate) async fn a_dropped_lease_goes_to_the_next(f: &Fixture) {
    let name = f.queue("lease").name().to_owned();
    let mut first = hold(&f.publisher, &name).await;
    write(&mut first, "kept").await;
    let mut second = f.consumer.lease(&name);
    assert!(timeout(A_MOMENT, &mut second).await.is_err());
    drop(first);
    let second = within(second).await.expect("its turn");
    assert_eq!(text(&*second), Some("kept"));
}

pub(crate) async fn who_gives_up_leaves_the_queue(f: &Fixture) {
    let name = f.queue("lease").name().to_owned();
    let first = hold(&f.publisher, &name).await;
    let mut impatient = f.consumer.lease(&name);
    assert!(timeout(2 * A_MOMENT, &mut impatient).await.is_err());
    drop(impatient);
    let mut third = f.consumer.lease(&name);
    assert!(timeout(A_MOMENT, &mut third).await.is_err());
    within(first.release()).await;
    within(third).await.expect("its turn");
}

pub(crate) async fn who_gives_up_at_once_holds_nothing(f: &Fixture) {
    let name = f.queue("lease").name().to_owned();
    within(hold(&f.publisher, &name).await.release()).await;
    for micros in [0, 100, 1000, 3000, 10_000, 30_000, 100_000] {
        let lease = f.publisher.lease(&name);
        // Dropped with the lease, if it came in time.
        drop(timeout(Duration::from_micros(micros), lease).await);
    }
    within(hold(&f.consumer, &name).await.release()).await;
}

pub(crate) async fn leases_have_names_of_their_own(f: &Fixture) {
    let (a, b) = (
        f.queue("a").name().to_owned(),
        f.queue("b").name().to_owned(),
    );
    let mut first = hold(&f.publisher, &a).await;
    let mut second = hold(&f.publisher, &b).await;
    write(&mut first, "a").await;
    write(&mut second, "b").await;
    assert_eq!((text(&*first), text(&*second)), (Some("a"), Some("b")));
}

pub(crate) async fn increments_of_many_holders_are_all_counted(f: &Fixture) {
    const HOLDERS: usize = 6;
    const TIMES: usize = 5;
    let name = f.queue("lease").name().to_owned();
    let held = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for holder in 0..HOLDERS {
        let broker = match holder % 2 {
            0 => f.publisher.clone(),
            _ => f.consumer.clone(),
        };
        let (name, held) = (name.clone(), held.clone());
        tasks.spawn(async move {
            for _ in 0..TIMES {
                let mut lease = hold(&broker, &name).await;
                assert!(!held.swap(true, Ordering::SeqCst), "two hold it");
                let count: usize = text(&*lease).map_or(0, |text| text.parse().expect("a number"));
                write(&mut lease, &(count + 1).to_string()).await;
                held.store(false, Ordering::SeqCst);
                within(lease.release()).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    let read = within(f.consumer.read_lease(&name))
        .await
        .expect("readable");
    assert_eq!(read, Some((HOLDERS * TIMES).to_string().into_bytes()));
}

pub(crate) async fn the_lease_of_a_closed_connection_goes_to_the_next(f: &Fixture) {
    let Some(other) = f.another().await else {
        return;
    };
    let name = f.queue("lease").name().to_owned();
    let mut first = hold(&other, &name).await;
    write(&mut first, "theirs").await;
    let mut second = f.consumer.lease(&name);
    assert!(timeout(A_MOMENT, &mut second).await.is_err());
    within(other.close()).await;
    within(first.lost().stale()).await;
    assert_eq!(
        text(&*within(second).await.expect("its turn")),
        Some("theirs")
    );
}

pub(crate) async fn a_closed_broker_has_lost_its_leases(f: &Fixture) {
    let name = f.queue("lease").name().to_owned();
    let mut lease = hold(&f.consumer, &name).await;
    let mut waiting = f.consumer.lease(&name);
    assert!(timeout(A_MOMENT, &mut waiting).await.is_err());
    within(f.consumer.close()).await;
    within(lease.lost().stale()).await;
    assert!(matches!(
        within(lease.write(b"late".into())).await,
        Err(Error::Stale { .. })
    ));
    assert!(matches!(
        within(waiting).await.map(drop),
        Err(Error::Closed { .. })
    ));
    assert!(matches!(
        within(f.consumer.lease(&name)).await.map(drop),
        Err(Error::Closed { .. })
    ));
}
