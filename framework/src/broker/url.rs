//! A broker's URL: which broker, where, and the options that are ours rather than the broker's. Pure.

use std::fmt;
use std::str::FromStr;

use crate::broker::QueueType;
use crate::error::{Error, Result};

/// Which broker a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RabbitMQ, `amqp://` or `amqps://`.
    Amqp,
    /// One file, `sqlite://`.
    Sqlite,
    /// This process's memory, `memory://`.
    Memory,
}

/// A parsed broker URL.
///
/// `amqp://user:password@host:5672/vhost`, several for failover separated by `;`,
/// `sqlite://relative/file.db`, `sqlite:///absolute/file.db`, `memory://`.
///
/// Options after `?`, on any broker: `prefix=staging.` puts a prefix before the names of all queues and
/// exchanges. On RabbitMQ: `queue_type=quorum` (the default) or `classic`; what is left goes to the AMQP
/// client (`heartbeat=10`). On SQLite: `synchronous=full` (the default), with which each commit that confirms
/// a call waits for the disk, or `normal`, which is faster and may lose the last confirmed calls in a power cut.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Which broker.
    pub scheme: Scheme,
    /// The addresses, in the order in which they are tried; a path for `sqlite://`, empty for `memory://`.
    pub addresses: Vec<String>,
    /// Put before the names of all queues and exchanges.
    pub prefix: String,
    /// What a queue becomes on RabbitMQ where it does not say so itself.
    pub queue_type: QueueType,
    /// Whether a confirmed call on SQLite survives a power cut.
    pub durable_commits: bool,
}

/// The parts of an address, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Address {
    /// The machine; of an embedded broker, its file.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) user: String,
    pub(crate) vhost: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for BrokerUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = |reason: String| Error::InvalidUrl {
            url: redact(text),
            reason,
        };
        let mut url: Option<Self> = None;
        for address in text
            .split(';')
            .map(str::trim)
            .filter(|address| !address.is_empty())
        {
            let scheme = scheme(address).map_err(&refused)?;
            let first = url.get_or_insert_with(|| Self::empty(scheme));
            if first.scheme != scheme {
                return Err(refused(
                    "all addresses of one URL must name the same broker".into(),
                ));
            }
            let address = first.take_options(address).map_err(&refused)?;
            first.addresses.push(address);
        }
        let url = url.ok_or_else(|| refused("it is empty".into()))?;
        if url.scheme == Scheme::Sqlite && (url.addresses.len() != 1 || url.addresses[0].is_empty())
        {
            return Err(refused(
                "sqlite:// takes the path of one file, for example sqlite://garenne.db".into(),
            ));
        }
        Ok(url)
    }
}

impl BrokerUrl {
    /// `memory://`.
    pub(crate) fn memory() -> Self {
        Self::empty(Scheme::Memory)
    }

    /// Whether what goes over the wire is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.addresses
            .iter()
            .any(|address| address.starts_with("amqps:"))
    }

    /// The parts of one of the addresses, for people to read.
    pub(crate) fn address(&self, place: usize) -> Address {
        let address = self.addresses.get(place).map_or("", String::as_str);
        if self.scheme != Scheme::Amqp {
            return Address {
                host: address.to_owned(),
                ..Address::default()
            };
        }
        let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
        let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, "%2f"));
        let (user, place) = authority.rsplit_once('@').unwrap_or(("guest", authority));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (place, None),
        };
        let port = port.unwrap_or(if self.is_encrypted() { 5671 } else { 5672 });
        Address {
            host: host.to_owned(),
            port: Some(port),
            user: user.split(':').next().unwrap_or_default().to_owned(),
            vhost: match vhost {
                "%2f" | "%2F" => "/".to_owned(),
                vhost => vhost.to_owned(),
            },
        }
    }

    fn empty(scheme: Scheme) -> Self {
        Self {
            scheme,
            addresses: Vec::new(),
            prefix: String::new(),
            queue_type: QueueType::Quorum,
            durable_commits: true,
        }
    }

    /// Takes our options off `address` and returns what is left of it.
    fn take_options(&mut self, address: &str) -> Result<String, String> {
        let (base, query) = address.split_once('?').unwrap_or((address, ""));
        let mut left = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=').unwrap_or((option, "")) {
                ("prefix", value) => value.clone_into(&mut self.prefix),
                ("queue_type", "quorum") => self.queue_type = QueueType::Quorum,
                ("queue_type", "classic") => self.queue_type = QueueType::Classic,
                ("queue_type", other) => {
                    return Err(format!(
                        "queue_type is `quorum` or `classic`, not `{other}`"
                    ));
                }
                ("synchronous", "full") if self.scheme == Scheme::Sqlite => {
                    self.durable_commits = true
                }
                ("synchronous", "normal") if self.scheme == Scheme::Sqlite => {
                    self.durable_commits = false
                }
                _ if self.scheme == Scheme::Amqp => left.push(option),
                _ => return Err(format!("unknown option `{option}`")),
            }
        }
        Ok(match self.scheme {
            Scheme::Amqp if left.is_empty() => base.to_owned(),
            Scheme::Amqp => format!("{base}?{}", left.join("&")),
            Scheme::Sqlite => base["sqlite://".len()..].to_owned(),
            Scheme::Memory => String::new(),
        })
    }
}

fn scheme(address: &str) -> Result<Scheme, String> {
    match address.split_once("://") {
        Some(("amqp" | "amqps", _)) => Ok(Scheme::Amqp),
        Some(("sqlite", _)) => Ok(Scheme::Sqlite),
        Some(("memory", _)) => Ok(Scheme::Memory),
        // What else stands there is shown nowhere: it may be a password.
        Some((other, _)) if other.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Err(format!(
            "no broker speaks `{other}://`: use amqp://, amqps://, sqlite:// or memory://"
        )),
        _ => Err("it has no scheme: use amqp://host, sqlite://file.db or memory://".into()),
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Amqp => f.write_str(&redact(&self.addresses.join(";"))),
            Scheme::Sqlite => write!(f, "sqlite://{}", self.addresses[0]),
            Scheme::Memory => f.write_str("memory://"),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

/// The URL with every password masked, fit for logs.
#[must_use]
pub fn redact(url: &str) -> String {
    let redact_one = |address: &str| -> String {
        let is_scheme = |scheme: &str| !scheme.contains([':', '/', '@']);
        let parts = address.split_once("://");
        let Some((scheme, rest)) = parts.filter(|(scheme, _)| is_scheme(scheme)) else {
            // Perhaps a URL with a typing error, whose password is still one.
            return match address.rsplit_once('@') {
                Some((_, host)) => format!("***@{host}"),
                None => address.to_owned(),
            };
        };
        let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
        let Some(at) = rest[..authority_end].rfind('@').or_else(|| rest.rfind('@')) else {
            return address.to_owned();
        };
        let user = rest[..at].split(':').next().unwrap_or_default();
        format!("{scheme}://{user}:***@{}", &rest[at + 1..])
    };
    url.split(';').map(redact_one).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> BrokerUrl {
        text.parse().expect(text)
    }

    #[test]
    fn addresses_and_options() {
        let url = parse("amqp://u:p@a:1/%2f?heartbeat=5&prefix=x.&queue_type=classic;amqp://b");
        assert_eq!(
            url.addresses,
            ["amqp://u:p@a:1/%2f?heartbeat=5", "amqp://b"]
        );
        assert_eq!(
            (url.prefix.as_str(), url.queue_type),
            ("x.", QueueType::Classic)
        );
        assert_eq!(parse("sqlite:///tmp/a.db").addresses, ["/tmp/a.db"]);
        assert!(!parse("sqlite://a.db?synchronous=normal").durable_commits);
        assert_eq!(parse("memory://").scheme, Scheme::Memory);
    }

    #[test]
    fn wrong_urls_say_what_would_be_right() {
        for (text, expected) in [
            ("", "empty"),
            ("localhost", "no scheme"),
            (
                "amqp:/ann:secret@://",
                "`***@://` cannot be used: it has no scheme",
            ),
            ("redis://x", "no broker speaks `redis://`"),
            ("sqlite://", "path of one file"),
            ("sqlite://a.db?x=1", "unknown option"),
            ("amqp://a?queue_type=lazy", "`quorum` or `classic`"),
            ("amqp://a;sqlite://b", "same broker"),
        ] {
            let error = text.parse::<BrokerUrl>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #![proptest_config(crate::corpus::config())]

        #[test]
        fn fuzz_urls(text in proptest::prop_oneof![".{0,80}", "(amqps?|sqlite|memory|x)?(://|:|/)?[a-z0-9:@/?&=;%. _]{0,60}"]) {
            if let Ok(url) = text.parse::<BrokerUrl>() {
                let _ = format!("{url} {url:?}");
                assert!(url.scheme == Scheme::Memory || !url.addresses.is_empty());
            }
            let _ = redact(&text);
        }

        #[test]
        fn fuzz_passwords(password in "[!-~]{0,3}S3CR3T[!-~&&[^/?;]]{0,5}", host in "[a-z0-9.:/?&=_]{0,30}", scheme in "(amqps?://|amqp:/|amqp:|x://)") {
            let password = password.replace(['/', '?', ';', '@'], "");
            let text = format!("{scheme}ann:{password}@{host}");
            assert!(!redact(&text).contains("S3CR3T"), "{text}: {}", redact(&text));
            let said = match text.parse::<BrokerUrl>() {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => error.to_string(),
            };
            assert!(!said.contains("S3CR3T"), "{text}: {said}");
        }
    }

    #[test]
    fn an_address_has_parts_without_a_password() {
        let url = parse("amqp://ann:p:w@a:5673/prod?heartbeat=5;amqp://b");
        let [a, b] = [url.address(0), url.address(1)];
        assert_eq!(
            (a.to_string().as_str(), a.user.as_str(), a.vhost.as_str()),
            ("a:5673", "ann", "prod")
        );
        assert_eq!(
            (b.to_string().as_str(), b.user.as_str(), b.vhost.as_str()),
            ("b:5672", "guest", "/")
        );
        assert_eq!(parse("amqp://[::1]/v").address(0).to_string(), "[::1]:5672");
        assert_eq!(parse("sqlite://a.db").address(0).to_string(), "a.db");
    }

    #[test]
    fn passwords_are_never_shown() {
        let url = "amqp://ann:secret@a/v;amqp://bob:se@cret@b";
        assert_eq!(redact(url), "amqp://ann:***@a/v;amqp://bob:***@b");
        assert_eq!(redact("amqp:/ann:secret@a/v"), "***@a/v");
        assert_eq!(redact("amqp:/ann:secret:@://a"), "***@://a");
        assert!(!format!("{:?} {}", parse(url), parse(url)).contains("cret"));
        assert!(
            !"amqp://ann:secret@a?queue_type=x"
                .parse::<BrokerUrl>()
                .expect_err("bad")
                .to_string()
                .contains("secret")
        );
    }
}
