//! Compiles the control protocol into Rust; no `protoc` needed.

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    compile_protocol()
}

fn compile_protocol() -> anyhow::Result<()> {
    const ROOT: &str = "../proto";
    println!("cargo::rerun-if-changed={ROOT}");
    let files = protox::compile(["agent_enforcer/v1/control.proto"], [ROOT])
        .context("compiling the protocol below proto/")?;
    tonic_prost_build::configure()
        .compile_fds(files)
        .context("generating Rust from the protocol below proto/")
}
