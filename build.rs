//! Compiles `proto/` with protox, so that no protoc is needed, and keeps the descriptor set for reflection, for the
//! permission table's check and for the tests that are generated from it.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // Migrations are embedded by a macro, which cannot tell cargo itself.
    println!("cargo:rerun-if-changed=migrations");

    let mut files: Vec<PathBuf> =
        fs::read_dir("proto/tenancy/v1")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("tenancy.bin"), descriptors.encode_to_vec())?;
    // Ordered maps, so that equal messages have equal bytes: requests are recognised by their hash.
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
