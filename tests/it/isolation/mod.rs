//! Isolation, proven: the catalog (I1), the roles (I2), the scopes (I3), every tenant table with every verb, and every
//! RPC of the descriptors with every sort of wrong key (I4).

pub mod cases;
mod catalog;
mod roles;
mod rpcs;
mod scopes;
mod tables;
