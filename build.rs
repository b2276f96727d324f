//! Compiles `proto/` with protox, so that no protoc is needed, and keeps the descriptor set for reflection, for the
//! permission table's check and for the tests that are generated from it.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs, io};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // Migrations are embedded by a macro, which cannot tell cargo itself.
    println!("cargo:rerun-if-changed=migrations");

    let mut files = Vec::new();
    for directory in ["proto/tenancy", "proto/envoy"] {
        protos(directory.as_ref(), &mut files)?;
    }
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("tenancy.bin"), descriptors.encode_to_vec())?;
    // Ordered maps, so that equal messages have equal bytes: requests are recognised by their hash.
    tonic_prost_build::configure()
        .btree_map(".")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
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
