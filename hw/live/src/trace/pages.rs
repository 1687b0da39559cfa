//! The pages of the kernel's trace ring buffer, as `trace_pipe_raw` gives them.
//!
//! A page is a time, a word that says how many bytes are used and whether events were missed before
//! it, then records. A record is a word (5 bits kind or length, 27 bits of time since the one
//! before) and its data. Times are those of the trace clock.

use std::io;

/// The kinds of a record that carry no event.
const PADDING: u32 = 29;
const TIME_EXTEND: u32 = 30;
const TIME_STAMP: u32 = 31;
/// Bits of the time in a record's first word.
const TIME_BITS: u32 = 27;
/// The bits of the used length that are flags: events were missed, and how many is stored.
const MISSED: u64 = (1 << 31) | (1 << 30);

/// Where things are in a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PageLayout {
    /// The word with the used length.
    commit: usize,
    commit_size: usize,
    /// The first record.
    data: usize,
    /// Bytes for records.
    len: usize,
}

/// An event as the kernel wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// The value of the trace clock.
    pub(crate) time: u64,
    /// On which CPU.
    pub(crate) cpu: u32,
    /// Its fields.
    pub(crate) data: Vec<u8>,
}

impl Record {
    /// Its `common_type`.
    pub(crate) fn kind(&self) -> u16 {
        self.data.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes))
    }
}

impl PageLayout {
    /// Reads `events/header_page`.
    pub(crate) fn parse(text: &str) -> io::Result<PageLayout> {
        let number = |name: &str, key: &str| {
            let line = text.lines().find(|line| line.contains(name))?;
            let rest = line.split(key).nth(1)?;
            rest.split(';').next()?.trim().parse().ok()
        };
        let layout = || {
            Some(PageLayout {
                commit: number(" commit;", "offset:")?,
                commit_size: number(" commit;", "size:")?,
                data: number(" data;", "offset:")?,
                len: number(" data;", "size:")?,
            })
        };
        layout()
            .filter(|layout| layout.commit_size == 8 && layout.commit + 8 <= layout.data)
            .ok_or_else(|| io::Error::other("this kernel describes its trace pages otherwise"))
    }

    /// Bytes of a page.
    pub(crate) fn page_len(&self) -> usize {
        self.data + self.len
    }

    /// Adds the records of a page to `records`.
    pub(crate) fn records(
        &self,
        cpu: u32,
        page: &[u8],
        records: &mut Vec<Record>,
    ) -> io::Result<()> {
        let cut = || io::Error::other("a page of the trace is cut off");
        let mut time = long(page, 0).ok_or_else(cut)?;
        let used = long(page, self.commit).ok_or_else(cut)? & !MISSED;
        let used = usize::try_from(used & 0xffff_ffff).map_err(io::Error::other)?;
        let end = self.data.checked_add(used).filter(|end| *end <= page.len()).ok_or_else(cut)?;
        let page = &page[..end];
        let mut at = self.data;
        while at < end {
            let head = word(page, at).ok_or_else(cut)?;
            let (kind, delta) = (head & 31, u64::from(head >> 5));
            let first = word(page, at + 4).unwrap_or(0);
            at += 4;
            let (data, next) = match kind {
                PADDING if delta == 0 => break,
                PADDING => (None, at + first as usize),
                TIME_EXTEND => {
                    time += (u64::from(first) << TIME_BITS) + delta;
                    at += 4;
                    continue;
                }
                TIME_STAMP => {
                    time = (u64::from(first) << TIME_BITS) + delta;
                    at += 4;
                    continue;
                }
                // The length is in the first word, itself included.
                0 => (Some(at + 4), at + first as usize),
                words => (Some(at), at + words as usize * 4),
            };
            if next <= at {
                return Err(io::Error::other("a record of the trace has no length"));
            }
            time += delta;
            if let Some(data) = data {
                let data = page.get(data..next).ok_or_else(cut)?.to_vec();
                records.push(Record { time, cpu, data });
            }
            at = next;
        }
        Ok(())
    }
}

/// How many events were lost, from a CPU's `stats`.
pub(crate) fn lost(stats: &str) -> u64 {
    const COUNTS: [&str; 3] = ["overrun", "commit overrun", "dropped events"];
    let counts = stats.lines().filter_map(|line| line.split_once(':'));
    let lost = counts.filter(|(name, _)| COUNTS.contains(name));
    lost.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: PageLayout = PageLayout { commit: 8, commit_size: 8, data: 16, len: 4080 };

    /// A page at time 100 with these records.
    fn page(used: u64, words: &[u32]) -> Vec<u8> {
        let mut page = 100u64.to_le_bytes().to_vec();
        page.extend(used.to_le_bytes());
        page.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        page
    }

    fn records(page: &[u8]) -> io::Result<Vec<(u64, usize)>> {
        let mut records = Vec::new();
        LAYOUT.records(3, page, &mut records)?;
        Ok(records.iter().map(|r| (r.time, r.data.len())).collect())
    }

    #[test]
    fn the_layout_is_read() {
        let text = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
            \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
            \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
            \tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n";
        assert_eq!(PageLayout::parse(text).unwrap(), LAYOUT);
        assert!(PageLayout::parse("").is_err());
    }

    #[test]
    fn records_of_each_kind() {
        let head = |kind: u32, delta: u32| kind | (delta << 5);
        // Two words of data; a long one with its length; an extended time; padding to be skipped.
        let words = [
            head(2, 1),
            7,
            7,
            head(0, 2),
            12,
            8,
            8,
            head(TIME_EXTEND, 3),
            1,
            head(1, 0),
            9,
            head(PADDING, 1),
            4,
            head(1, 5),
            9,
        ];
        let seen = records(&page(words.len() as u64 * 4, &words)).unwrap();
        let long = 103 + (1 << 27) + 3;
        assert_eq!(seen, [(101, 8), (103, 8), (long, 4), (long + 6, 4)]);
    }

    #[test]
    fn missed_events_are_a_flag_of_the_length() {
        let words = [1, 9];
        assert_eq!(records(&page(8 | (1 << 31), &words)).unwrap(), [(100, 4)]);
    }

    #[test]
    fn damage_is_an_error_and_no_endless_loop() {
        assert!(records(&page(400, &[1, 9])).is_err());
        assert!(records(&[0; 9]).is_err());
        assert!(records(&page(8, &[3, 9])).is_err());
        assert!(records(&page(8, &[0, 0])).is_err());
    }

    #[test]
    fn lost_events_are_counted() {
        let stats = "entries: 10\noverrun: 2\ncommit overrun: 1\nbytes: 99\ndropped events: 4\n";
        assert_eq!(lost(stats), 7);
    }
}
