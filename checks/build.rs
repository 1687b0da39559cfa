//! Hashes the sources of model, scenarios and sim, so that a schedule can say what it was made for,
//! and those of the whole program, so that what it keeps is read by no other.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Files that decide what a step is, below the workspace root.
const SOURCES: [&str; 3] = ["model/src", "scenarios/src", "sim/src"];

/// What else the program is made of: its own sources, and which libraries.
const OTHERS: [&str; 2] = ["checks/src", "Cargo.lock"];

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("..");
    let mut files = found(&root, &SOURCES);
    println!("cargo::rustc-env=KVMMU_SOURCE_HASH={:016x}", hash(&files));
    files.extend(found(&root, &OTHERS));
    println!("cargo::rustc-env=KVMMU_BUILD_HASH={:016x}", hash(&files));
}

/// The files at these places, in order.
fn found(root: &Path, places: &[&str]) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    for place in places {
        let path = root.join(place);
        println!("cargo::rerun-if-changed={}", path.display());
        match path.is_dir() {
            true => collect(&path, place, &mut files),
            false => files.push(((*place).to_owned(), path)),
        }
    }
    files.sort();
    files
}

fn hash(files: &[(String, PathBuf)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (name, path) in files {
        let text = fs::read(path).expect("a source file can be read");
        for byte in name.bytes().chain([0]).chain(text).chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

/// Every Rust file below `directory`, with a name that does not depend on the machine.
fn collect(directory: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) {
    let entries = fs::read_dir(directory).expect("a source directory can be read");
    for entry in entries {
        let path = entry.expect("a directory entry can be read").path();
        let leaf = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        let name = format!("{name}/{leaf}");
        if path.is_dir() {
            collect(&path, &name, files);
        } else if leaf.ends_with(".rs") {
            files.push((name, path));
        }
    }
}
