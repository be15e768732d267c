//! Builds the control protocol and the kernel object, so that one `cargo build` yields the whole
//! binary.
//!
//! The kernel crate needs a target of its own, its own core library and one unstable switch;
//! `cargo xtask setup` installs what that takes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

const PACKAGE: &str = "agent-enforcer-ebpf";
const TARGET: &str = "bpfel-unknown-none";
/// The kernel object's BTF comes from debug information; atomics that return a value need ISA v3.
/// The linker's order of expanding copies leaves `memset` a function that fills byte by byte: each
/// call costs the verifier some hundred instructions, and 6.1 its memory of which scalars matter.
const FLAGS: [&str; 4] = [
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

fn main() -> Result<()> {
    compile_protocol()?;
    compile_kernel_object()
}

/// Compiles the control protocol into Rust; no `protoc` needed.
fn compile_protocol() -> Result<()> {
    const ROOT: &str = "../proto";
    println!("cargo::rerun-if-changed={ROOT}");
    let files = protox::compile(["agent_enforcer/v1/control.proto"], [ROOT])
        .context("compiling the protocol below proto/")?;
    tonic_prost_build::configure()
        .compile_fds(files)
        .context("generating Rust from the protocol below proto/")
}

fn compile_kernel_object() -> Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().context("the crate is not in its workspace")?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for source in [PACKAGE, "agent-enforcer-common", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }

    let target_dir = out.join("kernel");
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .current_dir(workspace)
        .args(["build", "--release", "--locked", "--package", PACKAGE, "--target", TARGET])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(&target_dir)
        // Flags and wrappers of the host build are not for this target.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env("RUSTC_BOOTSTRAP", "1");
    let output = cargo.output().context("failed to run cargo for the kernel object")?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("the kernel object does not build; `cargo xtask setup` installs what it needs");
    }
    let object = target_dir.join(TARGET).join("release").join(PACKAGE);
    copy_aligned(&object, &out.join("agent-enforcer.bpf.o"))
}

fn copy_aligned(object: &Path, to: &Path) -> Result<()> {
    let bytes =
        fs::read(object).with_context(|| format!("no kernel object at {}", object.display()))?;
    ensure!(bytes.starts_with(b"\x7fELF"), "{} is not an object file", object.display());
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}
