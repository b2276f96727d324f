//! `ext_authz`: who passes, as whom, and what everybody else is told.

mod credentials;
mod passes;
mod quotas;
mod routes;
mod tokens;
