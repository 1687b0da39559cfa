//! The file, and the numbers that things have in it.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use kvmmu_steps::event::{Event, What};
use kvmmu_steps::file::{Header, Writer};

use crate::recorder::At;
use crate::symbols::Symbols;

/// Them.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) writer: Option<Writer<BufWriter<File>>>,
    /// The first error of writing.
    pub(super) failed: Option<String>,
    sites: HashMap<u64, u32>,
    threads: HashMap<u64, u32>,
    /// The thread that was seen last on each CPU.
    running: Vec<u32>,
    /// The CPU that each thread was seen on last.
    homes: Vec<u8>,
    /// What tells CPUs apart.
    cpus: Vec<u64>,
}

impl Log {
    /// A file that begins with this.
    pub(super) fn new(path: &Path, header: &Header) -> Result<Log, String> {
        let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let writer = Writer::new(BufWriter::with_capacity(1 << 20, file), header);
        let writer = writer.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Log {
            writer: Some(writer),
            failed: None,
            sites: HashMap::new(),
            threads: HashMap::new(),
            running: Vec::new(),
            homes: Vec::new(),
            cpus: Vec::new(),
        })
    }

    pub(super) fn fail(&mut self, error: String) {
        self.failed.get_or_insert(error);
    }

    pub(super) fn events(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::events)
    }

    pub(super) fn cpu(&mut self, own: u64) -> u8 {
        let seen = self.cpus.iter().position(|cpu| *cpu == own);
        seen.unwrap_or_else(|| {
            self.cpus.push(own);
            self.cpus.len() - 1
        }) as u8
    }

    /// The CPU that a task was on last.
    pub(super) fn cpu_of(&self, task: u64) -> Option<u8> {
        self.homes.get(*self.threads.get(&task)? as usize).copied()
    }

    /// The thread of a task; where it cannot be seen, the last one on that CPU.
    pub(super) fn thread(&mut self, cpu: u8, task: Option<u64>) -> u32 {
        let at = usize::from(cpu);
        if self.running.len() <= at {
            self.running.resize(at + 1, 0);
        }
        if let Some(task) = task {
            let next = self.threads.len() as u32;
            let thread = *self.threads.entry(task).or_insert(next);
            self.homes.resize(self.threads.len(), 0);
            self.homes[thread as usize] = cpu;
            self.running[at] = thread;
        }
        self.running[at]
    }

    pub(super) fn say(&mut self, symbols: &Symbols, at: At, what: What) -> u64 {
        let Some(writer) = &mut self.writer else { return 0 };
        let mut written = Ok(0);
        let next = self.sites.len() as u32;
        let site = *self.sites.entry(at.pc).or_insert_with(|| {
            written = writer.site(symbols.site(at.pc)).map(|()| 0);
            next
        });
        let event = Event { cpu: at.cpu, thread: at.thread, site, what };
        match written.and_then(|_: u64| writer.event(event)) {
            Ok(number) => number,
            Err(error) => {
                self.failed.get_or_insert(error.to_string());
                0
            }
        }
    }
}
