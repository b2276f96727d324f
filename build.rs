//! Compiles `proto/` with protox, so that no protoc is needed, and keeps the descriptor set for reflection, for the
//! permission table's check and for the tests that are generated from it.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs, io};

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // Migrations are embedded by a macro, which cannot tell cargo itself.
    println!("cargo:rerun-if-changed=migrations");

    let mut files = Vec::new();
    for directory in ["proto/tenancy", "proto/envoy"] {
        protos(directory.as_ref(), &mut files)?;
    }
    files.sort();
    let mut descriptors = protox::compile(&files, ["proto"])?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("tenancy.bin"), descriptors.encode_to_vec())?;
    left_where_they_lie(&mut descriptors)?;
    // Ordered maps, so that equal messages have equal bytes: requests are recognised by their hash.
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(format!(".{HTTP_REQUEST}.HeadersEntry"))
        .codec_path("crate::proto::codec::Codec")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Of a request that an Envoy asks about.
const HTTP_REQUEST: &str = "envoy.service.auth.v3.AttributeContext.HttpRequest";

/// Has the headers of such a request, of which two or three are looked at, read as slices of the message and not as a map of
/// new strings, which took a fifth of an answer. On the wire a map is a repeated message, and a string is bytes.
fn left_where_they_lie(descriptors: &mut FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let in_file = |file: &FileDescriptorProto, name: &str| {
        name.strip_prefix(file.package())?.strip_prefix('.').map(str::to_owned)
    };
    for file in &mut descriptors.file {
        let Some(path) = in_file(file, HTTP_REQUEST) else { continue };
        let mut messages = &mut file.message_type;
        for name in path.split('.') {
            let Some(found) = messages.iter_mut().position(|message| message.name() == name) else { break };
            messages = &mut messages[found].nested_type;
        }
        let Some(entry) = messages.iter_mut().find(|message| message.name() == "HeadersEntry") else { continue };
        entry.options = None;
        // Nothing is said there of an entry, where the generator looks for its comment.
        file.source_code_info = None;
        entry.field.iter_mut().for_each(|field| field.set_type(Type::Bytes));
        return Ok(());
    }
    Err(format!("{HTTP_REQUEST} has no headers").into())
}

/// Puts the `.proto` files below a directory to the others.
fn protos(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
