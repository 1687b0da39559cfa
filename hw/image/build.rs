//! Links the image position-independent, by a linker script of its own, and turns scenario files
//! into data that it can hold: it has no loader.

#[path = "build/generate.rs"]
mod generate;

use std::path::{Path, PathBuf};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

fn main() {
    let directory = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=scenarios");
    if variable("CARGO_CFG_TARGET_OS") != "none" {
        return;
    }
    link(&directory);
    let out = PathBuf::from(variable("OUT_DIR")).join("scenarios.rs");
    let text = generate::scenarios(&directory.join("scenarios"));
    std::fs::write(out, text).expect("the output directory can be written");
}

/// One file for any address: a PIE that relocates itself. Its relocations stand in a section of the
/// image, so nothing may be made read-only and nothing may ask for a dynamic linker.
fn link(directory: &Path) {
    let script = format!("-T{}", directory.join("link.ld").display());
    for argument in [
        "-pie",
        "--no-dynamic-linker",
        "-znotext",
        "-znorelro",
        "-zmax-page-size=4096",
        script.as_str(),
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
