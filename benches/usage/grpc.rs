//! A gRPC client that costs little, as the machine has few cores, and what the load takes of them the service does not have:
//! with a client of `h2` the load took half as much as the service's own threads.
//!
//! It speaks of HTTP/2 what the service needs to hear: header blocks that are in the table of both ends after the first
//! request, messages in frames as far as the service's windows go, and windows of its own that are wide enough for a whole
//! run. What is no reply ends its call.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use crate::support::Failure;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const WIDEST: u32 = (1 << 31) - 1;
/// What a window is before anybody has said anything.
const NARROW: u32 = 65_535;
/// The longest frame that is taken unasked.
const FRAME: usize = 16_384;
const HEAD: usize = 9;

/// Kinds of frames, and flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// One method over one connection, with one key. A clone calls over the same connection.
#[derive(Clone, Debug)]
pub struct Method(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    state: Mutex<State>,
    /// There is something to write.
    wanted: Notify,
    /// The service has made room for more.
    room: Notify,
    head: [Bytes; 2],
}

#[derive(Debug)]
struct State {
    /// What is to be written.
    out: BytesMut,
    last_stream: u32,
    /// What may be sent: now, of all calls together, and of a new call.
    window: i64,
    initial_window: i64,
    calls: HashMap<u32, Call>,
}

#[derive(Debug)]
struct Call {
    /// What may be sent of it.
    window: i64,
    /// Who waits for its reply, a piece at a time. Dropped at the end.
    pieces: mpsc::UnboundedSender<Bytes>,
}

/// A call whose messages go both ways for as long as it is open.
#[derive(Debug)]
pub struct Duplex {
    connection: Arc<Connection>,
    stream: u32,
    pieces: mpsc::UnboundedReceiver<Bytes>,
    /// What has come and is not a whole message yet.
    received: BytesMut,
}

impl Method {
    /// Connects to `127.0.0.1:port` or the like; the path is `/package.Service/Method`.
    pub async fn connect(address: SocketAddr, path: &str, key: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut out = BytesMut::from(PREFACE);
        frame_head(&mut out, 6, SETTINGS, 0, 0);
        out.put_u16(INITIAL_WINDOW_SIZE);
        out.put_u32(WIDEST);
        frame_head(&mut out, 4, WINDOW_UPDATE, 0, 0);
        out.put_u32(WIDEST - NARROW);
        let narrow = NARROW.into();
        let state = State { out, last_stream: 0, window: narrow, initial_window: narrow, calls: HashMap::new() };
        let head = head(&address.to_string(), path, key)?;
        let connection =
            Arc::new(Connection { state: Mutex::new(state), wanted: Notify::new(), room: Notify::new(), head });
        tokio::spawn(drive(stream, Arc::clone(&connection)));
        Ok(Self(connection))
    }

    /// Calls it. The request is framed as [`frame`] does.
    pub async fn call<R: Message + Default>(&self, request: &[u8]) -> Result<R, Failure> {
        let mut call = self.open();
        call.put(request, true).await?;
        call.receive().await
    }

    /// Opens a call.
    pub fn open(&self) -> Duplex {
        let (sender, pieces) = mpsc::unbounded_channel();
        let mut state = self.0.state();
        let head = &self.0.head[usize::from(state.last_stream > 0)];
        let stream = if state.last_stream == 0 { 1 } else { state.last_stream + 2 };
        state.last_stream = stream;
        let call = Call { window: state.initial_window, pieces: sender };
        state.calls.insert(stream, call);
        frame_head(&mut state.out, head.len(), HEADERS, END_HEADERS, stream);
        state.out.put_slice(head);
        drop(state);
        Duplex { connection: Arc::clone(&self.0), stream, pieces, received: BytesMut::new() }
    }
}

impl Duplex {
    /// Sends a message, framed as [`frame`] does.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), Failure> {
        self.put(message, false).await
    }

    async fn put(&mut self, mut message: &[u8], is_last: bool) -> Result<(), Failure> {
        loop {
            // Made before the look, so that it hears of what comes after.
            let room = self.connection.room.notified();
            let is_sent = self.connection.state().put(self.stream, &mut message, is_last)?;
            self.connection.wanted.notify_one();
            if is_sent {
                return Ok(());
            }
            room.await;
        }
    }

    /// The next message of the service.
    pub async fn receive<R: Message + Default>(&mut self) -> Result<R, Failure> {
        loop {
            if let Some(length) = self.received.get(1..5) {
                let length = 5 + usize::try_from(u32::from_be_bytes(length.try_into()?))?;
                if self.received.len() >= length {
                    return Ok(R::decode(&self.received.split_to(length)[5..])?);
                }
            }
            self.received.extend_from_slice(&self.pieces.recv().await.ok_or("refused, or ended without a reply")?);
        }
    }
}

impl Connection {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what is to be written, and hands out what comes, until the connection ends and all calls with it.
async fn drive(mut stream: TcpStream, connection: Arc<Connection>) {
    let mut come = BytesMut::with_capacity(1 << 16);
    loop {
        let out = connection.state().out.split();
        let wrote = out.is_empty() || stream.write_all(&out).await.is_ok();
        let read = tokio::select! {
            read = stream.read_buf(&mut come) => read.is_ok_and(|bytes| bytes > 0),
            () = connection.wanted.notified() => continue,
        };
        if !wrote || !read || !connection.state().take(&mut come) {
            connection.state().calls.clear();
            connection.room.notify_waiters();
            return;
        }
        connection.room.notify_waiters();
    }
}

impl State {
    /// Sends as much of a message as there is room for, and whether that was all.
    fn put(&mut self, stream: u32, message: &mut &[u8], is_last: bool) -> Result<bool, Failure> {
        let call = self.calls.get_mut(&stream).ok_or("the call has ended")?;
        while !message.is_empty() {
            let room = usize::try_from(self.window.min(call.window)).unwrap_or_default();
            let (chunk, rest) = message.split_at(message.len().min(FRAME).min(room));
            if chunk.is_empty() {
                return Ok(false);
            }
            *message = rest;
            let length = i64::try_from(chunk.len())?;
            (self.window, call.window) = (self.window - length, call.window - length);
            let ends = is_last && rest.is_empty();
            frame_head(&mut self.out, chunk.len(), DATA, if ends { END_STREAM } else { 0 }, stream);
            self.out.put_slice(chunk);
        }
        Ok(true)
    }

    /// How much may be sent of a call at first, also of those that are open.
    fn settings(&mut self, mut body: Bytes) {
        while body.len() >= 6 {
            let (name, value) = (body.get_u16(), i64::from(body.get_u32()));
            if name == INITIAL_WINDOW_SIZE {
                self.calls.values_mut().for_each(|call| call.window += value - self.initial_window);
                self.initial_window = value;
            }
        }
    }

    /// Takes whole frames. False: the service ends the connection.
    fn take(&mut self, come: &mut BytesMut) -> bool {
        while let Some(&[a, b, c, kind, flags, s0, s1, s2, s3]) = come.first_chunk::<HEAD>() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if come.len() < HEAD + length {
                come.reserve(HEAD + length);
                return true;
            }
            let stream = u32::from_be_bytes([s0, s1, s2, s3]);
            come.advance(HEAD);
            let mut body = come.split_to(length).freeze();
            match kind {
                DATA => {
                    if let Some(call) = self.calls.get(&stream) {
                        // Who is gone has been told already.
                        let _ = call.pieces.send(body);
                    }
                }
                SETTINGS if flags & ACK == 0 => {
                    self.settings(body);
                    frame_head(&mut self.out, 0, SETTINGS, ACK, 0);
                }
                PING if flags & ACK == 0 => {
                    frame_head(&mut self.out, length, PING, ACK, 0);
                    self.out.put_slice(&body);
                }
                WINDOW_UPDATE if stream == 0 => self.window += i64::from(body.get_u32()),
                WINDOW_UPDATE => {
                    if let Some(call) = self.calls.get_mut(&stream) {
                        call.window += i64::from(body.get_u32());
                    }
                }
                RESET => drop(self.calls.remove(&stream)),
                GO_AWAY => return false,
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM > 0 {
                self.calls.remove(&stream);
            }
        }
        true
    }
}

fn frame_head(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    out.put_uint(length as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
}

/// The header block of the first request, which both ends put into their tables, and of all others, which look it up there.
fn head(authority: &str, path: &str, key: &str) -> Result<[Bytes; 2], Failure> {
    /// `:method: POST` and `:scheme: http`, of the table that is given.
    const FIXED: [u8; 2] = [0x83, 0x86];
    let text = |block: &mut BytesMut, text: &str| {
        // Longer ones are not of one byte.
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127).ok_or("a header that is too long")?;
        block.put_u8(length);
        block.put_slice(text.as_bytes());
        Ok::<_, Failure>(())
    };
    let mut first = BytesMut::from(&FIXED[..]);
    // By the number of their name in that table; 0 is followed by the name.
    for (number, name, value) in
        [(4, "", path), (1, "", authority), (31, "", "application/grpc"), (0, "te", "trailers"), (0, "x-api-key", key)]
    {
        first.put_u8(0x40 | number);
        if number == 0 {
            text(&mut first, name)?;
        }
        text(&mut first, value)?;
    }
    // The newest is the first behind the given ones, of which there are 61.
    let again = FIXED.into_iter().chain((62..=66).rev().map(|place| 0x80 + place));
    Ok([first.freeze(), again.collect()])
}

/// A message as it goes over the wire: not compressed, its length, itself.
pub fn frame(message: &impl Message) -> Result<Bytes, Failure> {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length)?);
    message.encode(&mut framed)?;
    Ok(framed.freeze())
}
