//! What was found, a JSON line for each variant that is done.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use kvmmu_sim::outcome::{Found, Outcome, Seen, Stats, Verdict};
use serde::{Deserialize, Serialize};

use super::origin::Origin;
use crate::cli::exit::Failure;
use crate::cli::files::{self, Existing};
use crate::lab::memory::size_text;
use crate::lab::orders::{self, Order};

/// The version of the file.
const VERSION: u32 = 1;

/// As much is read of a file: far more than all built-in variants take.
const FILE_MAX: u64 = 256 << 20;

const BEGIN_AGAIN: &str = "name another file to begin a run, or remove this one";

/// The file, to which lines are added.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    v: u32,
    r#type: String,
    origin: Origin,
}

/// The part of the first line that each version has.
#[derive(Deserialize)]
struct Head {
    v: u32,
    r#type: String,
}

/// A variant that is done.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    index: usize,
    name: String,
    verdict: Verdict,
    others: Vec<Found>,
    seen: Seen,
    locks: Vec<Order>,
    stats: Stats,
}

impl Entry {
    /// What was found of the variant with this index.
    pub(super) fn of(index: usize, name: &str, outcome: &Outcome) -> Entry {
        let Outcome { verdict, others, seen, locks, stats } = outcome.clone();
        let locks = orders::written(&locks);
        Entry { index, name: name.to_owned(), verdict, others, seen, locks, stats }
    }

    fn outcome(self) -> Result<Outcome, String> {
        let locks = orders::read(&self.locks)?;
        let Entry { verdict, others, seen, stats, .. } = self;
        Ok(Outcome { verdict, others, seen, locks, stats })
    }
}

/// A line for `what`.
fn line(what: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(what)? + "\n")
}

/// The first line of a run.
fn start(origin: &Origin) -> io::Result<String> {
    line(&Start { v: VERSION, r#type: "resume".to_owned(), origin: origin.clone() })
}

/// `path` cannot be written.
pub(super) fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(
        format!("cannot write {}: {error}", path.display()),
        "what was found is printed all the same; make room, or name a file elsewhere, to keep it",
    )
}

impl Log {
    /// Opens the file of a run, and reads what is done: variants by index. Makes it if there is
    /// none.
    ///
    /// # Errors
    ///
    /// Those of [`super::Kept::open`].
    pub(super) fn open(
        path: &Path,
        origin: &Origin,
        names: &[String],
    ) -> Result<(Log, BTreeMap<usize, Outcome>), Failure> {
        let name = path.display().to_string();
        let system = |error: &io::Error| {
            Failure::usage(
                format!("cannot use {name}: {error}"),
                "--resume needs a file that can be read and written; it is made if there is none",
            )
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(|error| system(&error))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::usage(
                    format!("{name}: another kvmmu goes on with this run"),
                    "wait for it, or name another file",
                ));
            }
            // Not every file system has locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut text = String::new();
        let read = (&mut file).take(FILE_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                Failure::usage(format!("{name}: this is no file of --resume"), BEGIN_AGAIN)
            }
            _ => system(&error),
        })?;
        if text.len() as u64 > FILE_MAX {
            let message = format!("{name}: larger than {}", size_text(FILE_MAX));
            return Err(Failure::usage(message, BEGIN_AGAIN));
        }
        let mut log = Log { path: path.to_owned(), file };
        if text.is_empty() {
            log.put(&start(origin).map_err(|error| system(&error))?)?;
            return Ok((log, BTreeMap::new()));
        }
        // The last line may be half of one: the run was killed, or the disk was full. That variant
        // is explored again.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let done = parse(&name, &text[..whole], origin, names)?;
        let cut = log.file.set_len(whole as u64).and_then(|()| log.file.seek(SeekFrom::End(0)));
        cut.map_err(|error| system(&error))?;
        Ok((log, done))
    }

    /// Makes a file of what is done, in the place of any other.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(super) fn begin(
        path: &Path,
        origin: &Origin,
        entries: impl Iterator<Item = Entry>,
    ) -> Result<Log, Failure> {
        let begin = || {
            let mut text = start(origin)?;
            for entry in entries {
                text += &line(&entry)?;
            }
            files::write(path, &text, Existing::Replace)?;
            File::options().append(true).open(path)
        };
        let file = begin().map_err(|error| unwritten(path, &error))?;
        Ok(Log { path: path.to_owned(), file })
    }

    /// Adds a line.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), Failure> {
        let line = line(entry).map_err(|error| unwritten(&self.path, &error))?;
        self.put(&line)
    }

    fn put(&mut self, line: &str) -> Result<(), Failure> {
        let before = self.file.stream_position();
        let put = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        put.map_err(|error| {
            // Half a line would spoil the next one.
            if let Ok(before) = before {
                let _ = self.file.set_len(before).and_then(|()| self.file.seek(SeekFrom::End(0)));
            }
            unwritten(&self.path, &error)
        })
    }
}

/// Reads the lines of the file called `name`, which are whole ones.
fn parse(
    name: &str,
    text: &str,
    origin: &Origin,
    names: &[String],
) -> Result<BTreeMap<usize, Outcome>, Failure> {
    let mut lines = text.lines().zip(1..);
    let first = lines.next().map_or("", |(line, _)| line);
    let none = || Failure::usage(format!("{name}: this is no file of --resume"), BEGIN_AGAIN);
    let head: Head = serde_json::from_str(first).map_err(|_| none())?;
    if head.r#type != "resume" {
        return Err(none());
    }
    if head.v != VERSION {
        let message = format!("{name}:1: version {} of these files, not {VERSION}", head.v);
        return Err(Failure::usage(message, BEGIN_AGAIN));
    }
    let start: Start = serde_json::from_str(first).map_err(|_| none())?;
    start.origin.refuse_other(origin, &format!("{name}:1"))?;
    let mut done = BTreeMap::new();
    for (line, number) in lines {
        let wrong = |what: String| {
            let message = format!("{name}:{number}: {what}");
            Failure::usage(message, "remove this line: its variant is explored again")
        };
        let entry: Entry = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let index = entry.index;
        if names.get(index) != Some(&entry.name) {
            return Err(wrong(format!("variant {index} of this run is not '{}'", entry.name)));
        }
        done.insert(index, entry.outcome().map_err(wrong)?);
    }
    Ok(done)
}
