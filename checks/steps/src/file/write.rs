//! Writing a recording.

use std::io::{self, Write};

use crc32fast::Hasher;

use super::{Header, MAGIC, Record, VERSION};
use crate::event::{Event, Site};

/// Writes a recording.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    sum: Hasher,
    events: u64,
    record: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn new(to: W, header: &Header) -> io::Result<Writer<W>> {
        let mut writer = Writer { to, sum: Hasher::new(), events: 0, record: Vec::new() };
        let header = serde_json::to_string(header).map_err(io::Error::from)?;
        writer.put(format!("{MAGIC} {VERSION}\n{header}\n").as_bytes())?;
        Ok(writer)
    }

    /// The next instruction that events name by its number.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn site(&mut self, site: Site) -> io::Result<()> {
        self.record(&Record::Site(site))
    }

    /// The next event; returns its number: the first one is 1.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn event(&mut self, event: Event) -> io::Result<u64> {
        self.record(&Record::Event(event))?;
        self.events += 1;
        Ok(self.events)
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        let events = self.events.to_le_bytes();
        self.put(&[0; 2])?;
        self.put(&events)?;
        let sum = self.sum.clone().finalize();
        self.to.write_all(&sum.to_le_bytes())?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.record.clear();
        self.record.extend([0; 2]);
        let bytes = postcard::to_extend(record, std::mem::take(&mut self.record));
        self.record = bytes.map_err(io::Error::other)?;
        let len = u16::try_from(self.record.len() - 2).map_err(io::Error::other)?;
        self.record[..2].copy_from_slice(&len.to_le_bytes());
        let record = std::mem::take(&mut self.record);
        let put = self.put(&record);
        self.record = record;
        put
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.to.write_all(bytes)
    }
}
