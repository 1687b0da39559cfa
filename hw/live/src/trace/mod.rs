//! Records the kernel's own tracepoints of the KVM MMU, with exact addresses, in one total order.
//!
//! The guarantee: the file has every event that the kernel put into its buffers between
//! [`Session::start`] and [`Session::finish`], in the order of one atomic counter (the trace clock
//! `counter`), with what user space did at its place in that order; if the kernel dropped an event,
//! the last line says how many, and a file without a last line is truncated.
//!
//! The mechanism: an instance of tracefs of our own (nobody else's settings are touched), buffers
//! large enough for a run, read as binary pages afterwards: text would show hashed addresses, and
//! reading meanwhile would disturb what is recorded.

mod fields;
mod line;
mod pages;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvmmu_qemu::{Exit, Failure};
use serde_json::{Map, Value};

use fields::Format;
use line::{EventLine, Last};
use pages::{PageLayout, Record};

pub use line::{Header, Mode, SlotLine};

use crate::steps;

/// What is recorded, where the kernel has it.
const EVENTS: &[&str] = &[
    "kvmmmu/fast_page_fault",
    "kvmmmu/kvm_mmu_set_spte",
    "kvmmmu/kvm_mmu_get_page",
    "kvmmmu/kvm_mmu_prepare_zap_page",
    "kvmmmu/kvm_mmu_sync_page",
    "kvmmmu/kvm_mmu_unsync_page",
    "kvmmmu/kvm_mmu_zap_all_fast",
    "kvmmmu/kvm_tdp_mmu_spte_changed",
    "kvmmmu/mark_mmio_spte",
    "kvmmmu/handle_mmio_page_fault",
    "kvmmmu/kvm_mmu_pagetable_walk",
    "kvmmmu/kvm_mmu_paging_element",
    "kvmmmu/kvm_mmu_set_accessed_bit",
    "kvmmmu/kvm_mmu_set_dirty_bit",
    "kvmmmu/kvm_mmu_walker_error",
    "kvm/kvm_page_fault",
    "kvm/kvm_unmap_hva_range",
    "kvm/kvm_set_spte_hva",
    "kvm/kvm_age_hva",
    "kvm/kvm_age_page",
    "kvm/kvm_test_age_hva",
];

/// Where the kernel has no tracepoint for an unmapped range (x86 before 5.13), a probe of the
/// function takes its place, under the same name: the arguments by the calling convention of
/// x86-64.
const UNMAP_EVENT: &str = "kvm/kvm_unmap_hva_range";
const UNMAP_PROBE: &str = "kvmmu/kvm_unmap_hva_range";
const UNMAP_PROBE_TEXT: &str =
    "p:kvmmu/kvm_unmap_hva_range kvm_unmap_hva_range start=%si:x64 end=%dx:x64";

/// KiB of buffer per CPU.
const BUFFER_KIB: u32 = 16 << 10;
/// Where tracefs is.
const TRACEFS: &[&str] = &["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Writes what user space does into the trace, if there is one, and tells a recorder inside QEMU.
#[derive(Clone, Debug, Default)]
pub struct Marker {
    file: Option<Arc<File>>,
}

impl Marker {
    /// An operation of user space begins or ends. `fields` are added to the line.
    pub fn user(&self, op: &str, phase: Phase, fields: &[(&str, u64)]) {
        steps::mark(op, phase, fields);
        let Some(file) = &self.file else { return };
        let mut text = Map::new();
        text.insert("op".into(), op.into());
        text.insert("phase".into(), phase.name().into());
        for (name, value) in fields {
            text.insert((*name).into(), (*value).into());
        }
        // One write is one event. What the kernel has no room for it counts as lost.
        let _ = (&**file).write_all(Value::Object(text).to_string().as_bytes());
    }
}

/// Which end of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Before it.
    Enter,
    /// After it.
    Exit,
}

impl Phase {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Enter => "enter",
            Phase::Exit => "exit",
        }
    }
}

/// A recording under way. Dropping it takes the instance away.
#[derive(Debug)]
pub struct Session {
    instance: PathBuf,
    marker: Marker,
    formats: Vec<Format>,
    layout: PageLayout,
}

/// What was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Events in the file.
    pub events: u64,
    /// Events that the kernel had no room for.
    pub lost: u64,
}

impl Session {
    /// Starts to record.
    ///
    /// # Errors
    ///
    /// When there is no tracefs, or it may not be used, or this kernel traces no fast page fault.
    pub fn start() -> Result<Session, Failure> {
        let root = tracefs()?;
        let instance = root.join("instances").join(format!("kvmmu-{}", std::process::id()));
        fs::create_dir(&instance).map_err(|error| no_instance(&instance, &error))?;
        let mut session = Session {
            instance,
            marker: Marker::default(),
            formats: Vec::new(),
            layout: PageLayout::default(),
        };
        session.set_up(&root).map_err(|error| no_instance(&session.instance, &error))?;
        if !session.formats.iter().any(|format| format.name == "fast_page_fault") {
            return Err(Failure::new(
                Exit::Nothing,
                "this kernel has no tracepoint kvmmmu/fast_page_fault",
                "record on x86, with the module kvm loaded",
            ));
        }
        Ok(session)
    }

    fn set_up(&mut self, root: &Path) -> io::Result<()> {
        self.set("tracing_on", "0")?;
        self.set("trace_clock", "counter")?;
        self.set("options/overwrite", "0")?;
        self.set("buffer_size_kb", &BUFFER_KIB.to_string())?;
        self.layout = PageLayout::parse(&read_at_once(&root.join("events/header_page"))?)?;
        let probe = self.probe_unmap(root);
        for event in EVENTS.iter().copied().chain(probe) {
            let directory = self.instance.join("events").join(event);
            let Ok(text) = fs::read_to_string(directory.join("format")) else { continue };
            self.formats.push(Format::parse(&text)?);
            fs::write(directory.join("enable"), "1")?;
        }
        // What trace_marker writes; it has no switch.
        let print = fs::read_to_string(root.join("events/ftrace/print/format"))?;
        self.formats.push(Format::parse(&print)?);
        let marker = OpenOptions::new().write(true).open(self.instance.join("trace_marker"))?;
        self.marker = Marker { file: Some(Arc::new(marker)) };
        self.set("tracing_on", "1")
    }

    /// Makes the probe where it is needed; without it unmapped ranges are missing from the trace.
    fn probe_unmap(&self, root: &Path) -> Option<&'static str> {
        if self.instance.join("events").join(UNMAP_EVENT).exists() {
            return None;
        }
        let mut probes = OpenOptions::new().append(true).open(root.join("kprobe_events")).ok()?;
        // One from a run before may name a module that has been loaded anew since.
        let _ = probes.write_all(format!("-:{UNMAP_PROBE}").as_bytes());
        let _ = probes.write_all(UNMAP_PROBE_TEXT.as_bytes());
        Some(UNMAP_PROBE)
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.instance.join(file), value)
            .map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))
    }

    /// For what user space does.
    pub fn marker(&self) -> Marker {
        self.marker.clone()
    }

    /// Stops and writes the file.
    ///
    /// # Errors
    ///
    /// When the buffers cannot be read, or are not what their description says, or the file cannot
    /// be written.
    pub fn finish(self, header: &Header, path: &Path) -> Result<Recorded, Failure> {
        let write = || -> io::Result<Recorded> {
            self.set("tracing_on", "0")?;
            let (mut records, lost) = self.read_all()?;
            records.sort_by_key(|record| (record.time, record.cpu));
            let mut file = BufWriter::new(File::create(path)?);
            serde_json::to_writer(&mut file, header)?;
            let mut events = 0;
            for record in &records {
                let Some(format) = self.formats.iter().find(|f| f.id == record.kind()) else {
                    continue;
                };
                file.write_all(b"\n")?;
                serde_json::to_writer(&mut file, &EventLine { n: events, record, format })?;
                events += 1;
            }
            file.write_all(b"\n")?;
            serde_json::to_writer(&mut file, &Last { event: "end", events, lost })?;
            file.write_all(b"\n")?;
            file.flush()?;
            Ok(Recorded { events, lost })
        };
        write().map_err(|error| {
            let message = format!("the trace {} cannot be written: {error}", path.display());
            Failure::usage(message, "make room, or name another file")
        })
    }

    /// Every record of every CPU, and how many were lost.
    fn read_all(&self) -> io::Result<(Vec<Record>, u64)> {
        let mut records = Vec::new();
        let mut lost = 0;
        for entry in fs::read_dir(self.instance.join("per_cpu"))? {
            let directory = entry?.path();
            let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(cpu) = name.strip_prefix("cpu").and_then(|n| n.parse().ok()) else { continue };
            lost += pages::lost(&fs::read_to_string(directory.join("stats"))?);
            let mut pipe = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(directory.join("trace_pipe_raw"))?;
            let mut page = vec![0; self.layout.page_len()];
            loop {
                match pipe.read(&mut page) {
                    Ok(0) => break,
                    Ok(n) => self.layout.records(cpu, &page[..n], &mut records)?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok((records, lost))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.set("tracing_on", "0");
        // An instance with an open file stays until that is closed.
        self.marker = Marker::default();
        let _ = fs::remove_dir(&self.instance);
    }
}

/// Where tracefs is mounted.
///
/// # Errors
///
/// When it is not, or may not be looked into.
pub fn tracefs() -> Result<PathBuf, Failure> {
    let found = TRACEFS.iter().map(PathBuf::from).find(|path| path.join("trace_clock").exists());
    found.ok_or_else(|| {
        Failure::usage(
            "tracefs is not mounted, or this user may not look into it",
            "run as root: mount -t tracefs tracefs /sys/kernel/tracing",
        )
    })
}

/// A file of tracefs, by one read: some of its files have nothing more to say to a second one.
pub(crate) fn read_at_once(path: &Path) -> io::Result<String> {
    let mut text = vec![0; 1 << 16];
    let len = File::open(path)?.read(&mut text)?;
    text.truncate(len);
    String::from_utf8(text).map_err(io::Error::other)
}

fn no_instance(instance: &Path, error: &io::Error) -> Failure {
    Failure::usage(
        format!("cannot record in {}: {error}", instance.display()),
        "run as root, on a kernel with CONFIG_TRACING",
    )
}
