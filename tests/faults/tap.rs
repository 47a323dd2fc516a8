//! A way to the broker on which acknowledgements can be swallowed, and nothing else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a client says first.
const GREETING: usize = 8;
/// Type, channel and size of a frame.
const HEAD: usize = 7;
/// A method frame's type, then the class and method of `basic.ack`.
const METHOD: u8 = 1;
const ACK: [u8; 4] = [0, 60, 0, 80];

pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    swallow: watch::Sender<bool>,
    cuts: watch::Sender<()>,
}

impl Tap {
    pub(crate) async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let swallow = watch::channel(false).0;
        let cuts = watch::channel(()).0;
        let (swallowing, cutting) = (swallow.clone(), cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let target = target.clone();
                let (swallow, mut cut) = (swallowing.subscribe(), cutting.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = forward(client, target, swallow) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            swallow,
            cuts,
        }
    }

    /// Acknowledgements from now on go nowhere, or go through again.
    pub(crate) fn swallow(&self, swallow: bool) {
        self.swallow.send_replace(swallow);
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }
}

async fn forward(mut client: TcpStream, target: String, swallow: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, mut to_client) = client.split();
    let (mut from_server, to_server) = server.split();
    // An error is the end of a connection.
    tokio::select! {
        _ = up(from_client, to_server, swallow) => {}
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}

/// Forwards what a client says, frame by frame.
async fn up(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    swallow: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut frame = vec![0; GREETING];
    from.read_exact(&mut frame).await?;
    to.write_all(&frame).await?;
    loop {
        frame.resize(HEAD, 0);
        from.read_exact(&mut frame).await?;
        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
        // One byte more ends it.
        frame.resize(HEAD + size + 1, 0);
        from.read_exact(&mut frame[HEAD..]).await?;
        let is_ack = frame[0] == METHOD && frame[HEAD..].starts_with(&ACK);
        if !(is_ack && *swallow.borrow()) {
            to.write_all(&frame).await?;
        }
    }
}
