//! placeholder
pub mod broker;
pub mod error;
pub mod message;
pub use broker::*;
pub use error::*;
