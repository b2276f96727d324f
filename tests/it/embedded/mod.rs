//! The embedded Postgres against the real one: what it promises after kills, reboots and in places
//! that are not prepared for it.
//!
//! A test that has to kill "us" runs this binary again (see `support::holder`), as `kill -9` leaves no
//! process to assert anything in. As root, Postgres runs as another user, who has to get into the
//! test's directory; run as another user, the same tests cover that path.

mod kills;
mod places;
mod starts;
pub mod support;
