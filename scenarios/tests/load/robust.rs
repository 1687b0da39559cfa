//! Any input gives a scenario or a message.

use std::io::Write;

use kvmmu_scenarios::loader::{load, load_path};

use crate::common::{DIRECT, LOCKS, SHADOW};

#[test]
fn the_bases_load() {
    for base in [DIRECT, SHADOW, LOCKS] {
        for size in 1..=3 {
            load("dir/my-race.toml", base, size).unwrap_or_else(|e| panic!("{e}"));
        }
    }
    assert_eq!(load("dir/my-race.toml", DIRECT, 1).expect("valid").name, "my-race");
    assert_eq!(load("x.toml", DIRECT, 0).expect_err("size 0").message, "size 0");
}

#[test]
fn files_that_cannot_be_read_are_refused_without_a_line() {
    let directory = std::env::temp_dir().join(format!("kvmmu-load-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let missing = load_path(&directory.join("none.toml"), 1).expect_err("no file");
    assert!(missing.message.starts_with("cannot be read: ") && missing.line == 0, "{missing}");
    assert!(missing.to_string().contains("none.toml: cannot be read"), "{missing}");
    assert!(load_path(&directory, 1).is_err(), "a directory");

    let path = directory.join("bad.toml");
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(b"title = \"t\"\nsource = \"\xff\"\n").expect("written");
    let error = load_path(&path, 1).expect_err("not UTF-8");
    assert_eq!((error.line, error.column, error.message.as_str()), (2, 11, "not UTF-8"));

    file.write_all(&vec![b'#'; 2 << 20]).expect("written");
    let error = load_path(&path, 1).expect_err("too large");
    assert!(error.message.contains("larger than 1 MiB"), "{error}");
    std::fs::remove_dir_all(&directory).expect("removed");
}

/// Goal: no input makes the loader panic. Method: a valid file cut at every place, and with bytes,
/// lines and tokens changed by a fixed pseudo-random sequence; deep nesting.
#[test]
fn no_mutation_of_a_valid_file_panics() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let check = |text: &str| {
        if let Err(e) = load("f.toml", text, 2) {
            assert!(e.line >= 1 && e.column >= 1 && !e.message.is_empty() && !e.hint.is_empty());
        }
    };
    for base in [DIRECT, SHADOW, LOCKS] {
        for end in 0..=base.len() {
            check(&base[..end]);
        }
        let pieces: Vec<&str> = base.split_inclusive([' ', '\n', '"']).collect();
        for _ in 0..4000 {
            let mut bytes = base.as_bytes().to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = b"\"'[]{}=,.#\n\\019- \x00\x7f@<gw\xc3\xa4"[random(25)];
            }
            check(&String::from_utf8_lossy(&bytes));
            let mut shuffled = pieces.clone();
            let (a, b) = (random(pieces.len()), random(pieces.len()));
            shuffled[a] = pieces[b];
            if random(2) == 0 {
                shuffled.swap(a, b);
            }
            check(&shuffled.concat());
        }
    }
    check(&format!("title = {}", "[".repeat(100_000)));
    check(&format!("{} = 1", "a.".repeat(50_000)));
    check("title = \"\u{e4}\\u00e4\\\n\"");
    check("\u{feff}title = 1");
}
