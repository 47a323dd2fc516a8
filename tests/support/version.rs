//! Which RabbitMQ a test talks to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The version that the server at `url` greets with, as far as features depend on it.
pub(crate) fn version(url: &str) -> (u32, u32) {
    let rest = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
    let rest = rest.strip_prefix("amqp://").unwrap_or(rest);
    let host = rest.split(['/', '?']).next().expect("a host");
    let address = match host.contains(':') {
        true => host.to_owned(),
        false => format!("{host}:5672"),
    };
    let mut socket = TcpStream::connect(address).expect("a server");
    let limit = Some(Duration::from_secs(10));
    socket.set_read_timeout(limit).expect("a limit");
    socket.write_all(b"AMQP\x00\x00\x09\x01").expect("written");
    // A frame: its type, its channel, its length; then `connection.start` with a table of properties.
    let mut head = [0; 7];
    socket.read_exact(&mut head).expect("a frame");
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut start = vec![0; length as usize];
    socket.read_exact(&mut start).expect("a whole frame");
    let key = b"\x07versionS";
    let at = start.windows(key.len()).position(|bytes| bytes == key);
    let value = &start[at.expect("a version") + key.len() + 4..];
    let mut numbers = value.split(|byte| !byte.is_ascii_digit()).map(|digits| {
        let digits = std::str::from_utf8(digits).expect("ASCII");
        digits.parse().expect("a number")
    });
    let mut next = || numbers.next().expect("a number");
    (next(), next())
}
