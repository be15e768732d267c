//! Builds the server side of the SPIFFE Broker API from its public protocol.

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["broker.proto"], ["proto"]).context("compiling proto/")?;
    tonic_prost_build::configure()
        .build_client(false)
        .compile_fds(files)
        .context("generating Rust from proto/")
}
