//! The way of a request from the socket to a service: connections in `serve.rs` and `tls.rs`, their requests in
//! `requests.rs`, the layers and their order in `layers.rs`, each layer in a file of its own, the admin port in `admin.rs`.

pub mod admin;
pub mod body;
pub mod context;
pub mod deadline;
pub mod dispatch;
pub mod error_info;
pub mod io;
pub mod layers;
pub mod limit;
pub mod middleware;
pub mod panic;
pub mod peer;
pub mod requests;
pub mod serve;
pub mod stream;
pub mod tls;
pub mod unary;
