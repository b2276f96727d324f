//! What the tests with an Envoy work with: the binary, its configuration, an application behind it, and clients.

mod bootstrap;
mod envoy;
mod guest;
mod http;
mod program;
mod routes;
mod stage;
mod upstream;

pub use bootstrap::Bootstrap;
pub use envoy::{Envoy, validate};
pub use guest::Guest;
pub use http::{Answer, Ask, Version};
pub use program::program;
pub use routes::with_routes;
pub use stage::{Stage, front, stage};
pub use upstream::Upstream;
