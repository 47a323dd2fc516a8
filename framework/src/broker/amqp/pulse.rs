//! Leaves a node that is cut off from its cluster. From RabbitMQ 4.3 on such a node does not pause: connections
//! to it live, queues are described as ever, and whoever consumes there gets nothing. What needs the cluster's
//! consent shows it, so that is asked for: a `basic.get` from an empty quorum queue, which its leader answers
//! once most of the nodes agree. It is asked over a connection of its own, since a server that cannot answer
//! ends the connection after a while.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::AMQPValue;
use tokio::time::{sleep, timeout};

use super::connection::Slot;
use super::live::{Live, Trouble, rpc};
use super::server;
use super::transport::Transport;
use super::wire::{own, table, text};

/// Always empty, and gone when nobody has asked for a day.
const QUEUE: &str = "garenne.pulse";
const EXPIRES_MS: i32 = 24 * 3_600_000;
/// Pause between two questions.
const PAUSE: Duration = Duration::from_secs(2);
/// How long an answer may take: longer than the election of a leader among nodes that are well.
const PATIENCE: Duration = Duration::from_secs(3);

/// What asking a node led to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pulse {
    Felt,
    /// It was asked, and had no answer.
    Missing,
    /// It could not be asked, which says nothing about the others' connections to it.
    Unknown,
}

/// Watches the nodes that `transport` is connected to, until it is closed.
pub(super) async fn watch(transport: Arc<Transport>) {
    let mut closing = transport.closing();
    let nodes = transport.consuming.each_alone("pulse");
    tokio::select! {
        _ = closing.wait_for(|closing| *closing) => {}
        () = look_after(&transport, &nodes) => {}
    }
    for node in &nodes {
        node.close().await;
    }
}

/// `nodes` are in the order of the transport's addresses.
async fn look_after(transport: &Transport, nodes: &[Slot]) {
    let mut last = None;
    loop {
        sleep(PAUSE).await;
        let here = transport.consuming.place();
        if let Some(left) = last.filter(|_| last != here) {
            nodes[left].close().await;
        }
        last = here;
        if let Some(here) = here {
            look_at(transport, nodes, here).await;
        }
    }
}

/// Leaves the node at `here` if it has no pulse and another has.
async fn look_at(transport: &Transport, nodes: &[Slot], here: usize) {
    if ask(&nodes[here]).await != Pulse::Missing {
        return;
    }
    // An election may have come between: whoever is well answers now.
    let (again, better) = tokio::join!(ask(&nodes[here]), first_felt(nodes, here));
    if again != Pulse::Felt
        && let Some(better) = better
    {
        tracing::warn!(
            "this node is cut off from its cluster, which answers elsewhere: connecting there"
        );
        for slot in transport.slots() {
            slot.leave_for(here, better);
        }
    }
    // What waits for an answer there is not to pile up; and where nobody answers, no connection helps.
    for node in nodes {
        node.close().await;
    }
}

/// The first other node that has a pulse.
async fn first_felt(nodes: &[Slot], except: usize) -> Option<usize> {
    let others = nodes.iter().enumerate().filter(|(at, _)| *at != except);
    let asked =
        others.map(|(at, node)| async move { (ask(node).await == Pulse::Felt).then_some(at) });
    let mut asked: FuturesUnordered<_> = asked.collect();
    while let Some(answer) = asked.next().await {
        if answer.is_some() {
            return answer;
        }
    }
    None
}

async fn ask(node: &Slot) -> Pulse {
    let Ok(Ok(live)) = timeout(PATIENCE, node.get()).await else {
        return Pulse::Unknown;
    };
    match timeout(PATIENCE, get(&live)).await {
        Ok(Ok(())) => Pulse::Felt,
        Ok(Err(trouble)) if trouble.is_missing() => {
            let declared = timeout(PATIENCE, declare(&live)).await;
            if let Ok(Err(trouble)) = declared {
                tracing::debug!(reason = %trouble.text, "queue `{QUEUE}` cannot be declared");
            }
            Pulse::Unknown
        }
        Ok(Err(trouble)) => {
            tracing::debug!(reason = %trouble.text, "queue `{QUEUE}` cannot be asked");
            // A node that does not reach the queue's leader may also end the connection, at once.
            match trouble.code {
                Some(403) => Pulse::Unknown,
                _ => Pulse::Missing,
            }
        }
        Err(_) => Pulse::Missing,
    }
}

async fn get(live: &Live) -> Result<(), Trouble> {
    let channel = live.channel().await?;
    let get = channel.basic_get(own(QUEUE), BasicGetOptions { no_ack: true });
    live.guard(rpc(get)).await?;
    live.guard(rpc(channel.close(200, own("bye")))).await
}

async fn declare(live: &Live) -> Result<(), Trouble> {
    let channel = live.channel().await?;
    let arguments = table([
        ("x-queue-type", text("quorum")),
        ("x-expires", AMQPValue::LongInt(EXPIRES_MS)),
        server::of_lost_nodes(),
    ]);
    let options = QueueDeclareOptions::durable();
    live.guard(rpc(channel.queue_declare(own(QUEUE), options, arguments)))
        .await?;
    live.guard(rpc(channel.close(200, own("bye")))).await
}
