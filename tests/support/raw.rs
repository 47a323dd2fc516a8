//! A publisher that writes AMQP's frames itself, and so sends what no client library would.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate uses its own part of it"
)]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;

/// A connection with one channel, on which everything is confirmed.
pub struct RawPublisher {
    stream: TcpStream,
    frame_max: usize,
}

impl RawPublisher {
    /// Connects to `amqp://user:password@host:port/vhost`.
    pub async fn connect(url: &str) -> Self {
        let (user, host, vhost) = parts(url);
        let mut stream = TcpStream::connect(host).await.expect("the test's RabbitMQ");
        stream.write_all(b"AMQP\0\0\x09\x01").await.expect("sent");
        let mut this = Self {
            stream,
            frame_max: 131_072,
        };
        this.expect([0, 10, 0, 10]).await;
        let (user, password) = user.split_once(':').expect("user:password");
        let response = format!("\0{user}\0{password}");
        let start = [
            &[0, 10, 0, 11][..],
            &[0; 4],
            &short(b"PLAIN"),
            &long(response.as_bytes()),
            &short(b"en_US"),
        ];
        this.write(METHOD, 0, &start.concat()).await;
        let tune = this.expect([0, 10, 0, 30]).await;
        this.frame_max = u32::from_be_bytes(tune[6..10].try_into().expect("four")) as usize;
        this.write(
            METHOD,
            0,
            &[&[0, 10, 0, 31], &tune[4..10], &[0, 0]].concat(),
        )
        .await;
        this.write(
            METHOD,
            0,
            &[&[0, 10, 0, 40][..], &short(vhost.as_bytes()), &[0, 0]].concat(),
        )
        .await;
        this.expect([0, 10, 0, 41]).await;
        this.write(METHOD, 1, &[0, 20, 0, 10, 0]).await;
        this.expect([0, 20, 0, 11]).await;
        this.write(METHOD, 1, &[0, 85, 0, 10, 0]).await;
        this.expect([0, 85, 0, 11]).await;
        this
    }

    /// Publishes; resolves when the broker has confirmed it.
    ///
    /// # Errors
    /// Why the broker refused it; it has closed the channel or the connection then.
    pub async fn publish(
        &mut self,
        exchange: &str,
        key: &[u8],
        properties: &[u8],
        body: &[u8],
    ) -> Result<(), String> {
        let publish = [
            &[0, 60, 0, 40, 0, 0][..],
            &short(exchange.as_bytes()),
            &short(key),
            &[1],
        ];
        self.write(METHOD, 1, &publish.concat()).await;
        let size = (body.len() as u64).to_be_bytes();
        let header = [&[0, 60, 0, 0][..], &size, properties].concat();
        self.write(CONTENT_HEADER, 1, &header).await;
        for part in body.chunks(self.frame_max - 8) {
            self.write(BODY, 1, part).await;
        }
        let mut returned = false;
        loop {
            let (kind, payload) = self.read().await;
            match (kind, payload.get(..4)) {
                (METHOD, Some([0, 60, 0, 80])) if returned => return Err("unroutable".into()),
                (METHOD, Some([0, 60, 0, 80])) => return Ok(()),
                (METHOD, Some([0, 60, 0, 50])) => returned = true,
                (METHOD, Some([0, 20, 0, 40] | [0, 10, 0, 50] | [0, 60, 0, 120])) => {
                    return Err(String::from_utf8_lossy(&payload[4..]).into_owned());
                }
                (METHOD, other) => panic!("an unexpected method: {other:?}"),
                _ => {}
            }
        }
    }

    async fn expect(&mut self, method: [u8; 4]) -> Vec<u8> {
        let (_, payload) = self.read().await;
        let text = String::from_utf8_lossy(&payload);
        assert!(payload.starts_with(&method), "not {method:?}: {text}");
        payload
    }

    async fn write(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let head = [
            &[kind][..],
            &channel.to_be_bytes(),
            &(payload.len() as u32).to_be_bytes(),
        ]
        .concat();
        let frame = [&head, payload, &[0xce]].concat();
        // A broker that has closed the connection says why in what it has sent.
        let _ = self.stream.write_all(&frame).await;
    }

    async fn read(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes(head[3..].try_into().expect("four"));
        let mut payload = vec![0; length as usize + 1];
        self.stream
            .read_exact(&mut payload)
            .await
            .expect("a payload");
        payload.pop();
        (head[0], payload)
    }
}

/// `user:password`, `host:port` and the vhost.
fn parts(url: &str) -> (&str, &str, String) {
    let url = url.split(['?', ';']).next().unwrap_or_default();
    let rest = url.strip_prefix("amqp://").expect("amqp://");
    let (user, rest) = rest.split_once('@').unwrap_or(("guest:guest", rest));
    let (host, vhost) = rest.split_once('/').unwrap_or((rest, "%2f"));
    (user, host, vhost.replace("%2f", "/").replace("%2F", "/"))
}

fn short(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("255 bytes at most");
    [&[length], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// Places of properties, in AMQP's order.
pub mod place {
    pub const CONTENT_TYPE: usize = 0;
    pub const CONTENT_ENCODING: usize = 1;
    pub const HEADERS: usize = 2;
    pub const DELIVERY_MODE: usize = 3;
    pub const PRIORITY: usize = 4;
    pub const CORRELATION_ID: usize = 5;
    pub const REPLY_TO: usize = 6;
    pub const EXPIRATION: usize = 7;
    pub const MESSAGE_ID: usize = 8;
    pub const TIMESTAMP: usize = 9;
    pub const TYPE: usize = 10;
    pub const USER_ID: usize = 11;
    pub const APP_ID: usize = 12;
    pub const CLUSTER_ID: usize = 13;
}

/// The bytes of a message's properties.
#[derive(Clone, Default)]
pub struct Properties {
    fields: [Option<Vec<u8>>; 14],
    /// The entries of the header table, each with its name first.
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Properties {
    /// A short string of any bytes.
    pub fn short(mut self, place: usize, bytes: &[u8]) -> Self {
        self.fields[place] = Some(short(bytes));
        self
    }

    /// Bytes as they are.
    pub fn bytes(mut self, place: usize, bytes: &[u8]) -> Self {
        self.fields[place] = Some(bytes.to_vec());
        self
    }

    /// A header, instead of one of the same name, of which servers choose one or the other; `value` begins with its type.
    pub fn header(mut self, name: &[u8], value: &[u8]) -> Self {
        self.entries.retain(|(known, _)| known != name);
        self.entries.push((name.to_vec(), value.to_vec()));
        self
    }

    pub fn encode(mut self) -> Vec<u8> {
        let entries = self.entries.iter();
        let entries = entries.flat_map(|(name, value)| [short(name), value.clone()]);
        self.fields[place::HEADERS] = Some(long(&entries.collect::<Vec<_>>().concat()));
        let mut flags = 0_u16;
        let mut out = Vec::new();
        for (place, field) in self.fields.iter().enumerate() {
            if let Some(field) = field {
                flags |= 1 << (15 - place);
                out.extend(field);
            }
        }
        [&flags.to_be_bytes(), &*out].concat()
    }
}

/// A long string as a header's value.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [b"S", &*long(bytes)].concat()
}

/// A table as a header's value.
pub fn table(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> = entries
        .iter()
        .flat_map(|(name, value)| [short(name.as_bytes()), value.clone()].concat())
        .collect();
    [b"F", &*long(&entries)].concat()
}

/// An array as a header's value.
pub fn array(values: &[Vec<u8>]) -> Vec<u8> {
    [b"A", &*long(&values.concat())].concat()
}

/// Tables in tables.
pub fn nested_tables(depth: usize) -> Vec<u8> {
    nested(depth, b'F', b"\x01a")
}

/// Arrays in arrays.
pub fn nested_arrays(depth: usize) -> Vec<u8> {
    nested(depth, b'A', b"")
}

fn nested(depth: usize, kind: u8, name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(depth * (5 + name.len()));
    let each = 5 + name.len();
    for level in 1..=depth {
        let size = if level == depth {
            0
        } else {
            (depth - level) * each
        };
        out.push(kind);
        out.extend((size as u32).to_be_bytes());
        if level < depth {
            out.extend(name);
        }
    }
    out
}

/// A JSON value as a header's value, as clients write it.
pub fn json(value: &serde_json::Value) -> Vec<u8> {
    use serde_json::Value;
    match value {
        Value::Null => b"V".to_vec(),
        Value::Bool(yes) => vec![b't', u8::from(*yes)],
        Value::Number(n) => match n.as_i64() {
            Some(n) => [b"l", &n.to_be_bytes()[..]].concat(),
            None => [b"d", &n.as_f64().unwrap_or_default().to_be_bytes()[..]].concat(),
        },
        Value::String(s) => text(s.as_bytes()),
        Value::Array(values) => array(&values.iter().map(json).collect::<Vec<_>>()),
        Value::Object(entries) => {
            let entries: Vec<_> = entries.iter().map(|(k, v)| (k.as_str(), json(v))).collect();
            table(&entries)
        }
    }
}
