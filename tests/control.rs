//! Workers watched and steered while they work: on every broker through our own API, on RabbitMQ with Celery's tools
//! and Flower, too.

#[path = "control/asking.rs"]
mod asking;
#[path = "control/celery.rs"]
#[cfg(feature = "amqp")]
mod celery;
#[path = "control/events.rs"]
mod events;
#[path = "control/flower.rs"]
#[cfg(feature = "amqp")]
mod flower;
#[path = "control/steering.rs"]
mod steering;
mod support;
#[path = "control/tasks.rs"]
mod tasks;
