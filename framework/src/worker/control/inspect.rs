//! Questions to a worker, and its answers in Celery's shapes: monitors read them.

use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use super::Ear;
use crate::broker::url::{Address, Scheme};
use crate::control::request::Request;
use crate::message::{Arguments, header};
use crate::task::Ack;
use crate::worker::activity::Had;

/// Ids of cancelled calls that are told.
const REVOKED: usize = 10_000;
/// Calls that are told.
const CALLS: usize = 10_000;
/// Arguments longer than this, in bytes, are told in short.
const LARGEST: usize = 16 * 1024;

impl Ear {
    /// The answer to a question; `None` if it is none.
    pub(super) fn inspect(&self, request: &Request) -> Option<Value> {
        let shared = &self.shared;
        Some(match request.method.as_str() {
            "ping" => json!({"ok": "pong"}),
            "active" | "dump_active" => self.calls(|had| had.began.is_some()),
            "reserved" | "dump_reserved" => self.calls(|had| had.began.is_none()),
            // What is not due yet waits in the broker.
            "scheduled" | "dump_schedule" => json!([]),
            "revoked" | "dump_revoked" => json!(shared.cancelled.latest(REVOKED)),
            "registered" | "dump_tasks" => self.registered(),
            "query_task" => self.query(&request.texts("ids")),
            "stats" => self.stats(),
            "active_queues" => self.queues(),
            "conf" | "dump_conf" => self.settings(),
            "clock" => json!({"clock": self.clock.load(Ordering::Relaxed)}),
            "report" => json!({"ok": self.report()}),
            "hello" => self.hello(request),
            _ => return None,
        })
    }

    fn calls(&self, wanted: impl Fn(&Had) -> bool) -> Value {
        let calls = self.shared.activity.calls();
        let wanted = calls.iter().filter(|had| wanted(had)).take(CALLS);
        wanted.map(|had| self.call(had)).collect()
    }

    /// A call that the worker has.
    fn call(&self, had: &Had) -> Value {
        let message = &had.message;
        let short = || {
            let (args, _) = message.repr();
            (json!([args]), json!({}))
        };
        let (args, kwargs) = match Arguments::decode(message) {
            Ok(arguments) if message.body.len() <= LARGEST => {
                told(&arguments).unwrap_or_else(short)
            }
            _ => short(),
        };
        let task = message.text("task").unwrap_or_default();
        let early = match message.text(header::ACK) {
            Some(ack) => ack == Ack::Early.as_str(),
            None => {
                let definition = self.shared.tasks.get(task);
                definition.is_some_and(|task| task.options.ack == Ack::Early)
            }
        };
        let began = had
            .began
            .map(|(at, _)| at.duration_since(UNIX_EPOCH).unwrap_or_default());
        json!({
            "id": message.id, "name": task, "type": task, "args": args, "kwargs": kwargs,
            "hostname": self.shared.teller.node(),
            "time_start": began.map(|began| began.as_secs_f64()),
            "acknowledged": early && had.began.is_some(),
            "delivery_info": {
                "exchange": message.text(header::EXCHANGE).unwrap_or_default(),
                "routing_key": message.text(header::ROUTING_KEY).unwrap_or(had.lane.queue.name()),
                "priority": message.priority.unwrap_or(0),
                "redelivered": had.redelivered,
            },
            "worker_pid": std::process::id(),
        })
    }

    fn query(&self, ids: &[String]) -> Value {
        let mut found = Map::new();
        for had in self.shared.activity.calls() {
            let id = &had.message.id;
            if ids.contains(id) {
                let state = if had.began.is_some() {
                    "active"
                } else {
                    "reserved"
                };
                found.insert(id.clone(), json!([state, self.call(&had)]));
            }
        }
        Value::Object(found)
    }

    fn registered(&self) -> Value {
        let shared = &self.shared;
        let tasks = shared
            .tasks
            .iter()
            .map(|task| match shared.limits.rate(task.name) {
                Some(rate) => format!("{} [rate_limit={rate}]", task.name),
                None => task.name.to_owned(),
            });
        tasks.collect()
    }

    fn slots(&self) -> usize {
        self.shared
            .queues
            .borrow()
            .iter()
            .map(|(_, slots)| slots)
            .sum()
    }

    fn stats(&self) -> Value {
        let (slots, pid) = (self.slots(), std::process::id());
        json!({
            "total": self.shared.activity.begun(),
            "pid": pid,
            "clock": self.clock.load(Ordering::Relaxed).to_string(),
            "uptime": self.shared.since.elapsed().as_secs(),
            "prefetch_count": slots,
            "pool": {
                "implementation": "garenne:slots", "max-concurrency": slots, "processes": [pid],
                "max-tasks-per-child": "N/A", "put-guarded-by-semaphore": false, "timeouts": [0, 0],
                "writes": "N/A",
            },
            "broker": self.broker(),
            "rusage": usage(),
            "sw_ident": "garenne", "sw_ver": env!("CARGO_PKG_VERSION"),
        })
    }

    fn broker(&self) -> Value {
        let url = self.shared.app.broker_url();
        let Address {
            host,
            port,
            user,
            vhost,
        } = url.address(0);
        let alternates: Vec<String> = (1..url.addresses.len())
            .map(|n| url.address(n).to_string())
            .collect();
        let transport = match url.scheme {
            Scheme::Amqp => "amqp",
            Scheme::Sqlite => "sqlite",
            Scheme::Memory => "memory",
        };
        json!({
            "hostname": host, "port": port, "userid": user, "virtual_host": vhost, "transport": transport,
            "insist": false, "ssl": url.is_encrypted(), "connect_timeout": 5, "transport_options": {},
            "login_method": "PLAIN", "uri_prefix": null, "heartbeat": 10, "failover_strategy": "round-robin",
            "alternates": alternates,
        })
    }

    fn queues(&self) -> Value {
        let prefix = self.shared.app.prefix();
        let queues = self.shared.queues.borrow();
        let queues = queues.iter().map(|(queue, slots)| {
            let name = queue.name().strip_prefix(prefix).unwrap_or(queue.name());
            let exchange = json!({
                "name": "", "type": "direct", "arguments": null, "durable": true, "passive": false,
                "auto_delete": false, "delivery_mode": null, "no_declare": false,
            });
            json!({
                "name": name, "exchange": exchange, "routing_key": name, "queue_arguments": null,
                "binding_arguments": null, "consumer_arguments": null, "durable": !queue.exclusive,
                "exclusive": queue.exclusive, "auto_delete": false, "no_ack": false, "alias": null,
                "bindings": [], "no_declare": null, "expires": null, "message_ttl": null, "max_length": null,
                "max_length_bytes": null, "max_priority": queue.max_priority, "concurrency": slots,
            })
        });
        queues.collect()
    }

    fn settings(&self) -> Value {
        let app = &self.shared.app;
        json!({
            "broker_url": app.broker_url().to_string(),
            "control_exchange": format!("{}celery", app.prefix()),
            "event_exchange": format!("{}celeryev", app.prefix()),
            "task_default_queue": "default",
            "task_serializer": "json", "result_serializer": "json", "accept_content": ["json"],
            "task_acks_late": true, "timezone": "UTC", "enable_utc": true,
            "worker_concurrency": self.slots(),
            "worker_max_deliveries": self.shared.max_deliveries,
        })
    }

    fn report(&self) -> String {
        let shared = &self.shared;
        format!(
            "software -> garenne:{}\nplatform -> system:{} arch:{}\nbroker -> {}\nnode -> {}\nslots -> {}\n",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
            shared.app.broker_url(),
            shared.teller.node(),
            self.slots(),
        )
    }

    /// A worker that starts tells which cancelled calls it knows, and asks for the others'.
    fn hello(&self, request: &Request) -> Value {
        if request.text("from_node") == Some(self.shared.teller.node()) {
            return Value::Null;
        }
        // Celery 5.7 sends a list, those before an object by id.
        let theirs: Vec<String> = match request.argument("revoked") {
            Some(Value::Object(by_id)) => by_id.keys().cloned().collect(),
            _ => request.texts("revoked"),
        };
        for id in theirs.iter().take(REVOKED) {
            self.shared.cancelled.spare(id);
        }
        json!({
            "revoked": self.shared.cancelled.latest(REVOKED),
            "clock": self.clock.load(Ordering::Relaxed),
        })
    }
}

/// The arguments as values; `None` where one is none: raw JSON may hold half characters, numbers and depths that a
/// value does not.
fn told(arguments: &Arguments) -> Option<(Value, Value)> {
    let args = serde_json::to_value(&arguments.args).ok()?;
    let kwargs = serde_json::to_value(&arguments.kwargs).ok()?;
    Some((args, kwargs))
}

/// What the process has used, where the system tells: `N/A` elsewhere.
fn usage() -> Value {
    let read = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // Behind the program's name, which may contain anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // A hundredth of a second is what Linux counts in, everywhere it tells.
        let seconds = |n: usize| Some(fields.get(n)?.parse::<f64>().ok()? / 100.0);
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let peak: u64 = peak.split_whitespace().next()?.parse().ok()?;
        Some(json!({"utime": seconds(11)?, "stime": seconds(12)?, "maxrss": peak}))
    };
    read().unwrap_or_else(|| json!("N/A"))
}
