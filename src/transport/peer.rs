//! Who is at the other end of a connection.

use std::net::IpAddr;

use crate::model::workload::SpiffeId;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The address; of a proxy, where there is one in between.
    pub address: Option<IpAddr>,
    /// The workload that its certificate is of, which was verified.
    pub spiffe_id: Option<SpiffeId>,
}
