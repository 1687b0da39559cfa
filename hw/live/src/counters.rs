//! Which paths of KVM a run really took.
//!
//! The sources, best first: counters of the kernel's tracepoints (exact, and they tell fixed from
//! spurious), the statistics of the vCPUs (`pf_fast`, since 5.14 and on x86). Where there is
//! neither, nothing is said: a path that was not counted is never claimed.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sys;
use crate::trace;
use crate::vm::Vcpu;

/// What was counted; `None`: it could not be.
#[derive(serde::Serialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Paths {
    /// Where the numbers come from: `tracepoints`, `vcpu-stats` or `none`.
    pub source: &'static str,
    /// Fast page faults that made a page writable (or restored an access).
    pub fast_fixed: Option<u64>,
    /// Fast page faults that found nothing left to do.
    pub fast_spurious: Option<u64>,
    /// The two together.
    pub fast: Option<u64>,
    /// Faults that the fast path was asked about: those above and those that it left to the lock.
    pub fast_tried: Option<u64>,
    /// SPTEs set under mmu_lock.
    pub set_spte: Option<u64>,
}

/// The counters of one run.
#[derive(Debug, Default)]
pub struct Counters {
    fixed: Option<Tracepoint>,
    spurious: Option<Tracepoint>,
    tried: Option<Tracepoint>,
    set_spte: Option<Tracepoint>,
}

impl Counters {
    /// Starts to count what can be counted.
    pub fn start() -> Counters {
        let Ok(tracefs) = trace::tracefs() else { return Counters::default() };
        let fast = "kvmmmu/fast_page_fault";
        let format = fs::read_to_string(tracefs.join("events").join(fast).join("format"));
        let Some(results) = format.ok().and_then(|text| Results::parse(&text)) else {
            return Counters::default();
        };
        let count = |event: &str, filter: &str| Tracepoint::open(&tracefs, event, filter);
        Counters {
            fixed: count(fast, &format!("ret=={}", results.fixed)),
            spurious: count(fast, &format!("ret=={}", results.spurious)),
            tried: count(fast, ""),
            set_spte: count("kvmmmu/kvm_mmu_set_spte", ""),
        }
    }

    /// What was counted until now; `vcpus` are those of the run.
    pub fn read(&self, vcpus: &[Vcpu]) -> Paths {
        let read = |counter: &Option<Tracepoint>| counter.as_ref().and_then(Tracepoint::read);
        if let (Some(fixed), Some(spurious)) = (read(&self.fixed), read(&self.spurious)) {
            return Paths {
                source: "tracepoints",
                fast_fixed: Some(fixed),
                fast_spurious: Some(spurious),
                fast: Some(fixed + spurious),
                fast_tried: read(&self.tried),
                set_spte: read(&self.set_spte),
            };
        }
        let fast: Option<u64> = vcpus.iter().map(|vcpu| statistic(vcpu, "pf_fast")).sum();
        let source = if fast.is_some() { "vcpu-stats" } else { "none" };
        Paths { source, fast, ..Paths::default() }
    }
}

/// What the field `ret` of `fast_page_fault` is, which differs by version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Results {
    fixed: u64,
    spurious: u64,
}

impl Results {
    /// From the event's `format` file: its print format compares `ret` with both.
    fn parse(text: &str) -> Option<Results> {
        let print = text.lines().find(|line| line.starts_with("print fmt:"))?;
        let mut compared = print.split("REC->ret ==").skip(1).map(|rest| {
            rest.trim_start().split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
        });
        // "spurious %d fixed %d": in this order.
        let (spurious, fixed) = (compared.next()??, compared.next()??);
        Some(Results { fixed: number(fixed)?, spurious: number(spurious)? })
    }
}

/// A value of `ret`: a number, or, where the kernel left its name (before 5.17), that of 5.10.
fn number(text: &str) -> Option<u64> {
    match text {
        "RET_PF_FIXED" => Some(3),
        "RET_PF_SPURIOUS" => Some(4),
        number => number.parse().ok(),
    }
}

/// The events of one tracepoint, on every CPU.
#[derive(Debug)]
struct Tracepoint {
    counters: Vec<File>,
}

impl Tracepoint {
    fn open(tracefs: &Path, event: &str, filter: &str) -> Option<Tracepoint> {
        let id = fs::read_to_string(tracefs.join("events").join(event).join("id")).ok()?;
        let id = id.trim().parse().ok()?;
        let cpus = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
        let counters = crate::cluster::parse_list(cpus.trim())?
            .into_iter()
            .map(|cpu| sys::tracepoint_counter(id, cpu, filter));
        Some(Tracepoint { counters: counters.collect::<Result<_, _>>().ok()? })
    }

    fn read(&self) -> Option<u64> {
        self.counters
            .iter()
            .map(|mut counter| {
                let mut value = [0; 8];
                counter.read_exact(&mut value).ok().map(|()| u64::from_ne_bytes(value))
            })
            .sum()
    }
}

/// A statistic of a vCPU, by name.
fn statistic(vcpu: &Vcpu, name: &str) -> Option<u64> {
    let file = sys::stats_file(&vcpu.fd).ok()?;
    // struct kvm_stats_header: flags, name size, descriptors, and where id, descriptors and data
    // are.
    let mut header = [0; 24];
    file.read_exact_at(&mut header, 0).ok()?;
    let word = |i: usize| header.get(i * 4..)?.first_chunk().map(|b| u32::from_ne_bytes(*b));
    let (name_size, count, descriptors, data) = (word(1)?, word(2)?, word(4)?, word(5)?);
    // struct kvm_stats_desc: flags, exponent, size, offset, bucket size; then the name.
    let mut descriptor = vec![0; 16 + name_size as usize];
    (0..count).find_map(|i| {
        let at = u64::from(descriptors) + u64::from(i) * descriptor.len() as u64;
        file.read_exact_at(&mut descriptor, at).ok()?;
        let stat = descriptor[16..].split(|byte| *byte == 0).next()?;
        if stat != name.as_bytes() {
            return None;
        }
        let offset = u32::from_ne_bytes(*descriptor.get(8..)?.first_chunk()?);
        let mut value = [0; 8];
        file.read_exact_at(&mut value, u64::from(data) + u64::from(offset)).ok()?;
        Some(u64::from_ne_bytes(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_are_read_from_the_print_format() {
        let text = |spurious: &str, fixed: &str| {
            format!(
                "name: fast_page_fault\nprint fmt: \"spurious %d fixed %d\", REC->vcpu_id, \
                 REC->ret == {spurious}, REC->ret == {fixed}\n"
            )
        };
        let old = text("RET_PF_SPURIOUS", "RET_PF_FIXED");
        assert_eq!(Results::parse(&old), Some(Results { fixed: 3, spurious: 4 }));
        let new = text("5", "4");
        assert_eq!(Results::parse(&new), Some(Results { fixed: 4, spurious: 5 }));
        assert_eq!(Results::parse(&text("RET_PF_SPURIOUS", "RET_PF_OTHER")), None);
        assert_eq!(Results::parse("print fmt: \"\", REC->ret == RET_PF_SPURIOUS"), None);
        assert_eq!(Results::parse(""), None);
    }
}
