//! A search that was under way: a line that says which, the search, and a checksum.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crc32fast::Hasher;
use kvmmu_sim::keep::Keep;
use kvmmu_sim::outcome::Reason;
use serde::{Deserialize, Serialize};

use super::Kept;
use super::log::unwritten;
use super::origin::Origin;
use crate::cli::exit::Failure;

/// When searches are saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum When {
    /// All the time, and where they end early.
    Often,
    /// Where they end because there is no more memory.
    MemoryEnds,
}

/// The shortest time between two saves.
const EVERY: Duration = Duration::from_secs(2);
/// Saving takes at most about this share of the time, as one in so many.
const SHARE: u32 = 30;
/// The longest first line.
const LINE_MAX: u64 = 1 << 16;
/// How many bytes the checksum has.
const SUM: u64 = 4;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    r#type: String,
    origin: Origin,
    name: String,
}

/// The file of the search for the variant with index `job` of the run that is kept in `path`.
pub(super) fn place(path: &Path, job: usize) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".search-{}", job + 1));
    PathBuf::from(name)
}

/// Where a file is written before it takes its place: always there, so that runs that are killed
/// leave one at most.
fn new(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".new");
    PathBuf::from(name)
}

/// Removes the search in `file`, which is of no use any more.
pub(super) fn remove(file: &Path) {
    remove_one(file);
    remove_one(&new(file));
}

/// If that cannot be done, the next run does it.
fn remove_one(file: &Path) {
    let _ = fs::remove_file(file);
}

/// True if there is a search of `name` in `file`.
///
/// # Errors
///
/// A file that cannot be read, is damaged, or is of another run.
pub(super) fn check(file: &Path, origin: &Origin, name: &str) -> Result<bool, Failure> {
    let again = "remove it to begin this one search again";
    let place = file.display();
    let damaged = |what: &str| Failure::usage(format!("{place}: {what}"), again);
    let system = |error: io::Error| damaged(&format!("cannot read it: {error}"));
    let open = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        open => open.map_err(system)?,
    };
    let length = open.metadata().map_err(system)?.len();
    let mut from = BufReader::new(open);
    let mut line = Vec::new();
    from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(system)?;
    let start: Start = serde_json::from_slice(&line)
        .map_err(|_| damaged("this is no search that was saved, or it is cut short"))?;
    start.origin.refuse_other(origin, &format!("{place}:1"))?;
    if start.r#type != "search" || start.name != name {
        return Err(damaged(&format!("this is of '{}', not of '{name}'", start.name)));
    }
    let Some(rest) = length.checked_sub(line.len() as u64 + SUM) else {
        return Err(damaged("it is cut short"));
    };
    let mut sum = Summing { to: io::sink(), sum: Hasher::new() };
    sum.write_all(&line).map_err(system)?;
    io::copy(&mut from.by_ref().take(rest), &mut sum).map_err(system)?;
    let mut written = Vec::new();
    from.read_to_end(&mut written).map_err(system)?;
    if written != sum.sum.finalize().to_le_bytes() {
        return Err(damaged("it is damaged or cut short: its checksum is wrong"));
    }
    Ok(true)
}

/// Where the search for one variant is saved.
pub(super) struct Saved<'k> {
    kept: &'k Kept,
    job: usize,
    file: PathBuf,
    new: PathBuf,
    last: Instant,
    took: Duration,
    /// The search ends here.
    end: bool,
}

impl<'k> Saved<'k> {
    pub(super) fn new(kept: &'k Kept, job: usize) -> Saved<'k> {
        let file = place(&kept.path, job);
        let (new, last) = (new(&file), Instant::now());
        Saved { kept, job, file, new, last, took: Duration::ZERO, end: false }
    }

    fn write(
        &self,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.kept.begin()?;
        let (origin, name) = (self.kept.origin.clone(), self.kept.names[self.job].clone());
        let start = Start { r#type: "search".to_owned(), origin, name };
        let mut whole = || {
            let mut to =
                BufWriter::new(Summing { to: File::create(&self.new)?, sum: Hasher::new() });
            serde_json::to_writer(&mut to, &start)?;
            to.write_all(b"\n")?;
            write(&mut to)?;
            let Summing { mut to, sum } =
                to.into_inner().map_err(io::IntoInnerError::into_error)?;
            to.write_all(&sum.finalize().to_le_bytes())?;
            to.sync_all()?;
            fs::rename(&self.new, &self.file)
        };
        whole().map_err(|error| {
            remove_one(&self.new);
            unwritten(&self.file, &error)
        })
    }
}

impl Keep for Saved<'_> {
    fn saved(&mut self) -> Option<Box<dyn Read>> {
        if self.kept.when == When::MemoryEnds {
            return None;
        }
        // It was checked when the run began.
        let mut from = BufReader::new(File::open(&self.file).ok()?);
        from.skip_until(b'\n').ok()?;
        Some(Box::new(from))
    }

    fn may_be_shared(&self) -> bool {
        self.kept.when == When::MemoryEnds
    }

    fn is_due(&mut self, end: Option<Reason>) -> bool {
        self.end = end.is_some();
        match self.kept.when {
            When::Often => self.end || self.last.elapsed() >= EVERY.max(self.took * SHARE),
            When::MemoryEnds => end == Some(Reason::Memory),
        }
    }

    fn save(&mut self, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) {
        let begun = Instant::now();
        let result = self.write(write);
        self.kept.was_saved(self.job, self.end, result);
        (self.last, self.took) = (Instant::now(), begun.elapsed());
    }
}

/// A writer that sums up what goes through it.
struct Summing<W> {
    to: W,
    sum: Hasher,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
