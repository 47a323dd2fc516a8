//! What is true of RabbitMQ alone. Needs a server: `GARENNE_TEST_AMQP=amqp://guest:guest@localhost`.

#[path = "amqp/cancellations.rs"]
mod cancellations;
#[path = "amqp/connections.rs"]
mod connections;
#[path = "amqp/dead_letters.rs"]
mod dead_letters;
#[path = "amqp/delays.rs"]
mod delays;
#[path = "amqp/fixture.rs"]
mod fixture;
#[path = "amqp/joins.rs"]
mod joins;
#[path = "amqp/peers.rs"]
mod peers;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "amqp/publishing.rs"]
mod publishing;
#[path = "amqp/queues.rs"]
mod queues;
#[path = "amqp/replies.rs"]
mod replies;
#[path = "amqp/settling.rs"]
mod settling;
#[path = "amqp/supervision.rs"]
mod supervision;
#[path = "support/version.rs"]
mod version;
#[path = "amqp/versions.rs"]
mod versions;
