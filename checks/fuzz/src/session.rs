//! One target's inputs, tried in a process of their own: a fault ends that process and no other.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::targets::Target;
use crate::{Args, corpus, mutate};

/// No input may take longer, in seconds.
const INPUT_SECONDS: u32 = 10;
/// Megabytes that inputs may take.
const MEMORY: u32 = 4096;

/// Where things are kept: below the target directory of the repository.
fn place(target: Target, what: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let root = root.expect("the package is in the repository").join("target/fuzz");
    root.join(what).join(target.name())
}

/// Tries inputs; true if no fault was found.
pub fn run(target: Target, args: &Args) -> io::Result<bool> {
    let found = place(target, "found");
    fs::create_dir_all(&found)?;
    let words = place(target, "words");
    let mut command = vec![
        format!("-artifact_prefix={}/", found.display()),
        format!("-timeout={INPUT_SECONDS}"),
        format!("-rss_limit_mb={MEMORY}"),
        "-print_final_stats=1".to_owned(),
    ];
    match &args.alone {
        Some(file) => command.push(file.display().to_string()),
        None => {
            let seeds = lay_seeds(target, &words)?;
            command.push(format!("-seed={}", args.seed));
            command.push(format!("-max_len={}", target.length_max()));
            command.push(format!("-dict={}", dictionary(&words)?.display()));
            if let Some(seconds) = args.time {
                command.push(format!("-max_total_time={seconds}"));
                command.push("-reload=0".to_owned());
                let learnt = place(target, "learnt");
                fs::create_dir_all(&learnt)?;
                command.push(learnt.display().to_string());
            }
            if args.runs.is_some() || args.time.is_none() {
                command.push(format!("-runs={}", args.runs.unwrap_or(target.runs())));
            }
            command.push(seeds.display().to_string());
        }
    }
    tell(target, &command, &words, &found)
}

/// Writes the seeds, each to a file, and their words.
fn lay_seeds(target: Target, words: &Path) -> io::Result<PathBuf> {
    let directory = place(target, "seeds");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let seeds = corpus::seeds(target);
    for (i, seed) in seeds.iter().enumerate() {
        fs::write(directory.join(format!("{i:04}")), seed)?;
    }
    fs::create_dir_all(words.parent().unwrap_or(words))?;
    fs::write(words, mutate::words_of(&seeds).join("\n"))?;
    Ok(directory)
}

/// The words as libFuzzer's dictionary.
fn dictionary(words: &Path) -> io::Result<PathBuf> {
    let path = words.with_extension("dict");
    let lines: String =
        fs::read_to_string(words)?.lines().map(|word| format!("\"{word}\"\n")).collect();
    fs::write(&path, lines)?;
    Ok(path)
}

fn inputs(found: &Path) -> io::Result<BTreeSet<PathBuf>> {
    fs::read_dir(found)?.map(|entry| Ok(entry?.path())).collect()
}

/// Runs libFuzzer and says what came of it.
fn tell(target: Target, command: &[String], words: &Path, found: &Path) -> io::Result<bool> {
    let before = inputs(found)?;
    let begin = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args([target.name(), "--child"])
        .args(command)
        .env(mutate::WORDS, words)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut tried = String::from("no");
    let errors = child.stderr.take().expect("it is piped");
    for line in BufReader::new(errors).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        match line.strip_prefix("stat::number_of_executed_units:") {
            Some(number) => number.trim().clone_into(&mut tried),
            None if is_chatter(&line) => {}
            None => eprintln!("{target}: {line}"),
        }
    }
    let status = child.wait()?;
    let seconds = begin.elapsed().as_secs();
    if status.success() {
        println!("{target}: {tried} inputs in {seconds} s, no fault");
        return Ok(true);
    }
    println!("{target}: a fault after {tried} inputs and {seconds} s");
    for input in inputs(found)?.difference(&before) {
        println!("  the input: {}", input.display());
        println!("  it alone:  cargo fuzzer {target} --alone {}", input.display());
    }
    Ok(false)
}

/// libFuzzer tells of every input that it keeps, and at the end of words that it would like to
/// have; that it goes on ("pulse") is enough.
fn is_chatter(line: &str) -> bool {
    const STARTS: [&str; 6] = ["\"", "stat::", "INFO: ", "Done ", "\tNEW_FUNC", "###"];
    let kept = line.starts_with('#') && !line.contains("pulse");
    kept || STARTS.iter().any(|start| line.starts_with(start))
}
