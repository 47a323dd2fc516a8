//! The proxy does to a connection what it says.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::child::within;
use crate::proxy::{Proxy, Rules};

const SOON: Duration = Duration::from_secs(5);
const NOT_YET: Duration = Duration::from_millis(200);

/// A server that sends back whatever it gets, and a proxy before it.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Proxy::start(&address).await
}

async fn connect(proxy: &Proxy) -> TcpStream {
    let connecting = within(SOON, "connecting", TcpStream::connect(proxy.address));
    connecting.await.expect("a connection")
}

async fn say(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(text).await?;
    let mut answer = vec![0; text.len()];
    within(SOON, "an answer", stream.read_exact(&mut answer)).await?;
    Ok(answer)
}

/// What a read finds: bytes, the end, or an error.
async fn read(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    let read = within(SOON, "reading", stream.read(&mut [0; 64])).await;
    read.map_err(|error| error.kind())
}

#[tokio::test]
async fn it_forwards_and_ends_with_either_side() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(say(&mut stream, b"hello").await.expect("open"), b"hello");
    stream.shutdown().await.expect("open");
    assert_eq!(read(&mut stream).await, Ok(0));
}

#[tokio::test]
async fn it_cuts_and_resets() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"hello").await.expect("open");
    proxy.cut();
    assert_eq!(read(&mut stream).await, Ok(0));
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"hello").await.expect("open");
    proxy.reset();
    assert_eq!(read(&mut stream).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_black_hole_keeps_everything_and_gives_it_back() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"hello").await.expect("open");
    proxy.set(Rules {
        black_hole: true,
        ..Rules::default()
    });
    stream.write_all(b"more").await.expect("it is taken");
    let mut late = connect(&proxy).await;
    late.write_all(b"late").await.expect("it is taken");
    for stream in [&mut stream, &mut late] {
        let nothing = timeout(NOT_YET, stream.read(&mut [0; 4])).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }
    proxy.heal();
    assert_eq!(read(&mut stream).await, Ok(4));
    assert_eq!(read(&mut late).await, Ok(4));
}

#[tokio::test]
async fn a_connection_is_cut_at_a_byte() {
    let proxy = echo().await;
    proxy.set(Rules {
        cut_after: Some(7),
        ..Rules::default()
    });
    let mut stream = connect(&proxy).await;
    assert_eq!(say(&mut stream, b"abc").await.expect("six"), b"abc");
    assert!(say(&mut stream, b"abc").await.is_err());
    proxy.heal();
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"abcdef").await.expect("open");
}

#[tokio::test]
async fn a_slow_link_takes_its_time() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    proxy.set(Rules {
        latency: Duration::from_millis(100),
        jitter: Duration::from_millis(20),
        ..Rules::default()
    });
    let start = Instant::now();
    say(&mut stream, b"hello").await.expect("open");
    assert!(start.elapsed() >= Duration::from_millis(200));
    proxy.set(Rules {
        bytes_per_second: Some(1_000),
        ..Rules::default()
    });
    let start = Instant::now();
    say(&mut stream, &[0; 400]).await.expect("open");
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_half_closed_connection_ends_for_the_client_only() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"hello").await.expect("open");
    proxy.half_close();
    assert_eq!(read(&mut stream).await, Ok(0));
    stream.write_all(b"into the void").await.expect("open");
}

#[tokio::test]
async fn a_port_is_closed_and_opened_again() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"hello").await.expect("open");
    proxy.set(Rules {
        closed_port: true,
        ..Rules::default()
    });
    let refused = async {
        while TcpStream::connect(proxy.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within(SOON, "a refusal", refused).await;
    say(&mut stream, b"still")
        .await
        .expect("what is open stays");
    proxy.heal();
    let again = async {
        loop {
            if let Ok(stream) = TcpStream::connect(proxy.address).await {
                return stream;
            }
            tokio::task::yield_now().await;
        }
    };
    let mut stream = within(SOON, "a connection", again).await;
    say(&mut stream, b"again").await.expect("open");
    proxy.refuse(true);
    let mut closed = connect(&proxy).await;
    assert!(matches!(read(&mut closed).await, Ok(0) | Err(_)));
}
