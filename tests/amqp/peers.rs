//! Servers that misbehave, each a proxy before the real one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The server's address in a URL.
fn server(url: &str) -> String {
    let (_, rest) = url.rsplit_once('@').expect("user@host");
    rest.split('/').next().expect("host").to_owned()
}

/// The URL of the same server at another address.
pub(crate) fn through(url: &str, address: SocketAddr) -> String {
    let (user, rest) = url.rsplit_once('@').expect("user@host");
    let (_, vhost) = rest.split_once('/').expect("a vhost");
    format!("{user}@{address}/{vhost}")
}

/// A peer that accepts `mute` connections without a word, before it lets others through.
pub(crate) async fn mute_at_first(url: &str, mute: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let server = server(url);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            if count.fetch_add(1, Ordering::SeqCst) < mute {
                kept.push(client);
                continue;
            }
            let server = server.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.expect("the server");
                // An error means that one of them has hung up.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, accepted)
}

/// A way to the server on which the confirms of the first `silent` connections are swallowed.
pub(crate) async fn without_confirms(url: &str, silent: usize) -> SocketAddr {
    let server = server(url);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut accepted = 0;
        while let Ok((client, _)) = listener.accept().await {
            accepted += 1;
            let (server, confirms) = (
                server.clone(),
                match accepted <= silent {
                    true => Confirms::Swallowed,
                    false => Confirms::Passed,
                },
            );
            tokio::spawn(async move {
                relay(client, server, confirms).await;
            });
        }
    });
    address
}

/// Joins a client to the server until one of them hangs up.
async fn relay(mut client: TcpStream, server: String, confirms: Confirms) {
    let mut server = TcpStream::connect(server).await.expect("the server");
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    // An error means that one of them has hung up.
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        _ = frames(&mut from_server, &mut to_client, confirms) => {}
    }
}

/// A way to the server on which no confirm comes until it is cut. Whoever connects after that gets them.
pub(crate) async fn without_confirms_until_cut(url: &str) -> (SocketAddr, watch::Sender<bool>) {
    let server = server(url);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (cut, is_cut) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, mut is_cut) = (server.clone(), is_cut.clone());
            tokio::spawn(async move {
                let confirms = match *is_cut.borrow() {
                    true => Confirms::Passed,
                    false => Confirms::Swallowed,
                };
                tokio::select! {
                    () = relay(client, server, confirms) => {}
                    _ = is_cut.wait_for(|cut| *cut), if confirms == Confirms::Swallowed => {}
                }
            });
        }
    });
    (address, cut)
}

/// A way to the server that says no to the first message, though it was stored, and is gone then.
pub(crate) async fn refusing_and_dying(url: &str) -> SocketAddr {
    let server = server(url);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut links = JoinSet::new();
        loop {
            let mut client = tokio::select! {
                accepted = listener.accept() => accepted.expect("a connection").0,
                Some(refused) = links.join_next() => match refused.expect("no panic") {
                    // The others and the port are closed with what holds them.
                    true => return,
                    false => continue,
                },
            };
            let server = server.clone();
            links.spawn(async move {
                let mut server = TcpStream::connect(server).await.expect("the server");
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => false,
                    refused = frames(&mut from_server, &mut to_client, Confirms::Refused) => refused.is_ok(),
                }
            });
        }
    });
    address
}

/// What becomes of a server's confirms.
#[derive(Clone, Copy, PartialEq)]
enum Confirms {
    Passed,
    Swallowed,
    /// The first one becomes a refusal.
    Refused,
}

/// Forwards frame by frame, until a confirm was refused.
async fn frames(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    confirms: Confirms,
) -> std::io::Result<()> {
    loop {
        let mut frame = vec![0; 7];
        from.read_exact(&mut frame).await?;
        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
        frame.resize(7 + size + 1, 0);
        from.read_exact(&mut frame[7..]).await?;
        // `basic.ack`; `basic.nack` is the same but for its number.
        let is_confirm = frame[0] == 1 && frame[7..].starts_with(&[0, 60, 0, 80]);
        match confirms {
            Confirms::Swallowed if is_confirm => continue,
            Confirms::Refused if is_confirm => frame[10] = 120,
            _ => {}
        }
        to.write_all(&frame).await?;
        if is_confirm && confirms == Confirms::Refused {
            return to.flush().await;
        }
    }
}
