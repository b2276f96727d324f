//! What can be sent as a reply: any message, and what writes itself without being made into one first.

use prost::Message;
use prost::bytes::BytesMut;

/// Something that is written as a message is.
pub trait Reply {
    /// About how many bytes it takes.
    fn room(&self) -> usize;

    /// Writes it.
    fn write(&self, into: &mut BytesMut);
}

impl<M: Message> Reply for M {
    fn room(&self) -> usize {
        self.encoded_len()
    }

    fn write(&self, into: &mut BytesMut) {
        self.encode_raw(into);
    }
}
