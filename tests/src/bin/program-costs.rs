//! Writes, for each program of the enforcer that is loaded, its name and how many instructions the
//! verifier processed for it (5.16). `cargo xtask verifier` runs it beside a daemon.

use std::error::Error;

use aya::programs::loaded_programs;

fn main() -> Result<(), Box<dyn Error>> {
    for program in loaded_programs() {
        let program = program?;
        let name = program.name_as_str().unwrap_or_default();
        if name.starts_with("ae_") {
            let instructions = program.verified_instruction_count();
            println!("{name} {}", instructions.ok_or("this kernel does not count instructions")?);
        }
    }
    Ok(())
}
