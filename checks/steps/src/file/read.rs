//! Reading a recording: it is looked at as a whole first, then one event after the other, so that
//! a long one needs no memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::{END, Header, MAGIC, Record, VERSION};
use crate::event::{Event, Site};
use crate::refused::Refused;

/// No line of a header is longer.
const LINE_MAX: u64 = 1 << 12;
/// What to do with a recording that is not whole.
const RECORD: &str = "record it again with 'cargo live-qemu --steps DIR' and let it finish";

/// A recording that is whole.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    header: Header,
    /// Where records begin, and where they end.
    records: (u64, u64),
    events: u64,
}

impl Reader {
    /// Looks at a file.
    ///
    /// # Errors
    ///
    /// Files that cannot be read, that are no recordings, were cut short or changed, or are of
    /// another version.
    pub fn open(path: &Path) -> Result<Reader, Refused> {
        let name = path.display();
        if path.is_dir() {
            let message = format!("{name} is a directory, not a recording");
            return Err(Refused::bad(message, "name one file in it: kvmmu steps DIR/FILE.steps"));
        }
        let unread = |error: io::Error| {
            let message = format!("cannot read the recording {name}: {error}");
            Refused::bad(message, "record one with 'cargo live-qemu --steps DIR'")
        };
        let file = File::open(path).map_err(unread)?;
        let size = file.metadata().map_err(unread)?.len();
        let mut from = BufReader::new(file);
        let first = line(&mut from).map_err(unread)?;
        version(&first, path)?;
        let second = line(&mut from).map_err(unread)?;
        let header = serde_json::from_str(&second).map_err(|error| {
            let message = format!("{name}:2: not the header of a recording: {error}");
            Refused::bad(message, RECORD)
        })?;
        let begin = (first.len() + second.len()) as u64;
        let cut = || {
            let message = format!("{name}: the recording was cut short: it has no end");
            Refused::bad(message, RECORD)
        };
        let end = size.checked_sub(END as u64).filter(|end| *end >= begin).ok_or_else(cut)?;
        let (sum, tail) = checksum(path, size).map_err(unread)?;
        let (length, rest) = tail.split_at(2);
        if length != [0; 2] {
            return Err(cut());
        }
        let (events, told) = rest.split_at(8);
        if told != sum.to_le_bytes() {
            let message = format!("{name}: the recording was cut short or changed: its checksum");
            return Err(Refused::bad(message + " is another one", RECORD));
        }
        let events = events.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Reader { path: path.to_owned(), header, records: (begin, end), events })
    }

    /// How it was recorded.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many events it has.
    pub fn len(&self) -> u64 {
        self.events
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Its events, from the first one on.
    ///
    /// # Errors
    ///
    /// When the file cannot be read any more.
    pub fn events(&self) -> Result<Events, Refused> {
        let open = || -> io::Result<BufReader<File>> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.records.0))?;
            Ok(BufReader::with_capacity(1 << 16, file))
        };
        let from = open().map_err(|error| {
            let message = format!("cannot read the recording {}: {error}", self.path.display());
            Refused::bad(message, "leave the file where it is meanwhile")
        })?;
        let name = self.path.display().to_string();
        let left = self.records.1 - self.records.0;
        Ok(Events { name, from, left, seen: 0, record: Vec::new(), sites: Vec::new() })
    }
}

/// A line, with its end; not more than a header has.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(LINE_MAX).read_until(b'\n', &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn version(first: &str, path: &Path) -> Result<(), Refused> {
    let name = path.display();
    let number = first.trim_end().strip_prefix(MAGIC).map(|rest| rest.trim_start().parse::<u32>());
    match number {
        Some(Ok(VERSION)) => Ok(()),
        Some(Ok(other)) => Err(Refused::foreign(
            format!("{name} has version {other} of the format, this program reads {VERSION}"),
            "judge it with the program that recorded it, or record it again",
        )),
        _ => Err(Refused::bad(
            format!("{name} is no recording: it does not begin with '{MAGIC} {VERSION}'"),
            "traces of tracepoints are for 'kvmmu conform', those of the simulator for 'replay'",
        )),
    }
}

/// The checksum of all but its own bytes, and the last bytes.
fn checksum(path: &Path, size: u64) -> io::Result<(u32, [u8; END])> {
    let mut file = File::open(path)?;
    let mut sum = Hasher::new();
    let mut rest = size - 4;
    let mut buffer = vec![0; 1 << 16];
    while rest > 0 {
        let want = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..want])?;
        sum.update(&buffer[..want]);
        rest -= want as u64;
    }
    let mut tail = [0; END];
    file.seek(SeekFrom::Start(size - END as u64))?;
    file.read_exact(&mut tail)?;
    Ok((sum.finalize(), tail))
}

/// The events of a recording, and the instructions that they name.
#[derive(Debug)]
pub struct Events {
    name: String,
    from: BufReader<File>,
    left: u64,
    seen: u64,
    record: Vec<u8>,
    sites: Vec<Site>,
}

impl Events {
    /// The next event and its number; `None`: there are no more.
    ///
    /// # Errors
    ///
    /// Records that mean nothing.
    pub fn read(&mut self) -> Result<Option<(u64, Event)>, Refused> {
        while self.left > 0 {
            match self.record().map_err(|error| self.bad(&error.to_string()))? {
                Record::Site(site) if !site.is_plain() => {
                    return Err(self.bad("a function has no name of a function"));
                }
                Record::Site(site) => self.sites.push(site),
                Record::Event(event) if !event.what.is_plain() => {
                    return Err(self.bad("it says what no recorder writes"));
                }
                Record::Event(event) if event.site as usize >= self.sites.len() => {
                    return Err(self.bad("it names an instruction that was not told of"));
                }
                Record::Event(event) => {
                    self.seen += 1;
                    return Ok(Some((self.seen, event)));
                }
            }
        }
        Ok(None)
    }

    /// The instructions that were named so far.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn record(&mut self) -> io::Result<Record> {
        let mut length = [0; 2];
        self.from.read_exact(&mut length)?;
        let length = usize::from(u16::from_le_bytes(length));
        self.left = self.left.checked_sub(2 + length as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.record.resize(length, 0);
        self.from.read_exact(&mut self.record)?;
        postcard::from_bytes(&self.record).map_err(io::Error::other)
    }

    fn bad(&self, message: &str) -> Refused {
        let Events { name, seen, .. } = self;
        Refused::bad(format!("{name}: after event {seen}: {message}"), RECORD)
    }
}
