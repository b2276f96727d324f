//! What the benchmarks share: a service with a Postgres of its own, load, and tables of the outcome.

pub mod cpu;
pub mod latencies;
pub mod load;
pub mod report;
pub mod server;

/// Why a benchmark did not come to its end.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
