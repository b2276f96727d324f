//! What the benchmarks share: a service with a Postgres of its own, load, and tables of the outcome.

pub mod cpu;
pub mod latencies;
pub mod load;
pub mod report;
pub mod server;

/// As the service has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a benchmark did not come to its end.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
