//! The generated code of `proto/`, and its descriptors.

/// Package `tenancy.v1`.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    reason = "generated code follows other rules"
)]
pub mod v1 {
    tonic::include_proto!("tenancy.v1");
}

/// The encoded `FileDescriptorSet` of every file of `proto/` and what those import.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("tenancy");
