//! What is written is read again; what was changed or cut short is refused.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::event::{Frame, Place, User, What};
use crate::refused::{Kind, Refused};

fn header() -> Header {
    Header { arch: Arch::Arm64, cpus: 3, schedule: Some(3), exact: true, guest: false }
}

fn store(n: u64) -> Event {
    let place = Place { table: Frame(0x40123), index: (n % 512) as u16 };
    Event { cpu: 1, thread: 2, site: 0, what: What::Store { place, old: n, new: n << 40 } }
}

fn site() -> Site {
    Site { pc: 0xffff_8000_0805_0e80, function: "stage2_map_walker".to_owned(), offset: 8 }
}

fn written(events: u64) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer.site(site()).unwrap();
    (0..events).for_each(|n| assert_eq!(writer.event(store(n)).unwrap(), n + 1));
    writer.finish().unwrap()
}

/// A file that goes with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Scratch {
        let path = std::env::temp_dir().join(format!("kvmmu-steps-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn refusal(name: &str, bytes: &[u8]) -> Refused {
    Reader::open(&Scratch::new(name, bytes).0).unwrap_err()
}

#[test]
fn what_is_written_is_read_again() {
    let file = Scratch::new("whole", &written(1000));
    let reader = Reader::open(&file.0).unwrap();
    assert_eq!((reader.header(), reader.len()), (&header(), 1000));
    let mut events = reader.events().unwrap();
    for n in 0..1000 {
        assert_eq!(events.read().unwrap(), Some((n + 1, store(n))));
    }
    assert_eq!(events.read().unwrap(), None);
    assert_eq!(events.sites(), [site()]);
}

#[test]
fn a_store_takes_few_bytes() {
    assert!(written(1000).len() < 1000 * 24, "{}", written(1000).len());
}

#[test]
fn a_prefix_is_refused_and_so_is_a_changed_byte() {
    let whole = written(20);
    for cut in 0..whole.len() {
        let refused = refusal("cut", &whole[..cut]);
        assert_eq!(refused.kind, Kind::Bad, "{cut}: {refused}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        refusal("changed", &changed);
    }
}

#[test]
fn what_no_recorder_writes_is_refused() {
    let read = |name: &str, site: Site, what: What| {
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        writer.site(site).unwrap();
        writer.event(Event { what, ..store(1) }).unwrap();
        let file = Scratch::new(name, &writer.finish().unwrap());
        Reader::open(&file.0).unwrap().events().unwrap().read()
    };
    let fine = What::Detach { page: Frame(1) };
    assert!(read("fine", site(), fine.clone()).is_ok());
    for function in ["\u{1b}[31m", "a b", "\u{e9}"] {
        let site = Site { function: function.to_owned(), ..site() };
        assert!(read("name", site, fine.clone()).is_err(), "{function:?}");
    }
    let place = Place { table: Frame(1), index: 512 };
    let (page, root, first) = (Frame(1), Frame(1), 0);
    let op = "\u{7}".to_owned();
    for what in [
        What::Table { page, level: -100, first, root, entries: Vec::new() },
        What::Table { page, level: 3, first, root, entries: vec![(512, 1)] },
        What::Table { page, level: 3, first: u64::MAX, root, entries: Vec::new() },
        What::Store { place, old: 0, new: 1 },
        What::Reuse { page: Frame(u64::MAX) },
        What::User(User::Mark { op, exit: false, fields: Vec::new() }),
    ] {
        assert!(read("event", site(), what.clone()).is_err(), "{what:?}");
    }
}

#[test]
fn another_version_is_foreign_and_another_file_is_none() {
    let text = String::from_utf8_lossy(&written(1)).into_owned();
    let other = refusal("version", text.replacen("kvmmu-steps 1", "kvmmu-steps 2", 1).as_bytes());
    assert_eq!(other.kind, Kind::Foreign, "{other}");
    let none = refusal("json", b"{\"kvmmu-trace\":1}\n");
    assert!(none.message.contains("is no recording"), "{none}");
    let missing = Reader::open(std::path::Path::new("/no/such.steps")).unwrap_err();
    assert!(missing.message.contains("cannot read the recording /no/such.steps"), "{missing}");
}
