//! Who calls, and may they. `principal.rs` and `permission.rs` are values without I/O, which the repository takes as
//! proofs; `keys/` is the API keys' own machinery, `tokens/` that of tokens; `layer.rs` authenticates, `gate.rs` authorizes.

pub mod authenticator;
pub mod credential;
pub mod directory;
pub mod gate;
pub mod invitation;
pub mod keys;
pub mod last_used;
pub mod layer;
pub mod mint;
pub mod permission;
pub mod principal;
pub mod tokens;
