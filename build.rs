//! Compiles `proto/` with protox, so that no protoc is needed, and keeps the descriptor set for reflection, for the
//! permission table's check and for the tests that are generated from it.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs, io};

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

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
    as_on_the_wire(&mut descriptors)?;
    // Ordered maps, so that equal messages have equal bytes: requests are recognised by their hash.
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(format!(".{HEADER}"))
        .codec_path("crate::proto::codec::Codec")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}

/// A header of a request that an Envoy asks about.
const HEADER: &str = "envoy.service.auth.v3.AttributeContext.HttpRequest.HeadersEntry";

/// What an Envoy is answered.
const ANSWER: &str = "envoy.service.auth.v3.CheckResponse";

/// Has the code of two messages made from what they are on the wire, since `ext_authz` takes and makes one for every request of
/// an application; measured, a third of an answer was the strings in them.
///
/// - The headers of a request, of which two or three are looked at, are slices of the message and not a map of new strings: on
///   the wire a map is a repeated message, and a string is bytes.
/// - What is said with an answer is bytes, most of which are kept from one answer to the next: so is any message on the wire.
fn as_on_the_wire(descriptors: &mut FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let header = message(descriptors, HEADER)?;
    header.options = None;
    header.field.iter_mut().for_each(|field| field.set_type(Type::Bytes));
    for field in &mut message(descriptors, ANSWER)?.field {
        if ["ok_response", "dynamic_metadata"].contains(&field.name()) {
            field.set_type(Type::Bytes);
            field.type_name = None;
        }
    }
    // Of the entries of maps nothing is said there, where the generator looks for the comments of messages.
    let files = descriptors.file.iter_mut().filter(|file| HEADER.starts_with(file.package()));
    files.for_each(|file| file.source_code_info = None);
    Ok(())
}

/// The message of a full name.
fn message<'a>(descriptors: &'a mut FileDescriptorSet, name: &str) -> Result<&'a mut DescriptorProto, Box<dyn Error>> {
    let none = || format!("there is no message {name}");
    for file in &mut descriptors.file {
        let Some(path) = name.strip_prefix(file.package()).and_then(|path| path.strip_prefix('.')) else { continue };
        let (outer, inner) = path.split_once('.').map_or((path, None), |(outer, inner)| (outer, Some(inner)));
        let Some(mut found) = file.message_type.iter_mut().find(|message| message.name() == outer) else { continue };
        for name in inner.into_iter().flat_map(|path| path.split('.')) {
            found = found.nested_type.iter_mut().find(|message| message.name() == name).ok_or_else(none)?;
        }
        return Ok(found);
    }
    Err(none().into())
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
