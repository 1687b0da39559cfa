//! What measurements run on, and on which CPUs.
//!
//! On big.LITTLE one cluster is used: `KVMMU_CLUSTER` = `big` (the default), `little`, or a list of
//! CPUs such as `4,5,6,7`. Who is confined by `taskset` stays confined.

use std::env;
use std::fmt;
use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The variable that chooses CPUs.
pub const CLUSTER: &str = "KVMMU_CLUSTER";

/// The machine, as reports name it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The model of the CPUs in use.
    pub model: String,
    /// The CPUs in use, in the order in which threads are pinned to them.
    pub cpus: Vec<usize>,
    /// How many the machine has.
    pub cpus_present: usize,
    /// How read-modify-write operations are compiled and carried out.
    pub atomics: String,
    /// The kernel that it runs.
    pub kernel: String,
    /// How many threads wanted to run in the last minute, on the average.
    pub load: String,
}

impl Machine {
    /// Looks at the machine.
    ///
    /// # Errors
    /// If `KVMMU_CLUSTER` names no CPU that may be used.
    pub fn detect() -> Result<Machine, String> {
        let allowed = allowed();
        let cpus = choose(&allowed, env::var(CLUSTER).ok().as_deref(), capacity)?;
        let first = cpus.first().copied().unwrap_or(0);
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
        Ok(Machine {
            model: model(&text("/proc/cpuinfo"), first),
            cpus,
            cpus_present: present(&text("/proc/cpuinfo")),
            atomics: atomics(),
            kernel: format!("Linux {}", text("/proc/sys/kernel/osrelease")),
            load: text("/proc/loadavg").split(' ').next().unwrap_or("?").to_string(),
        })
    }

    /// Pins the calling thread to the CPU whose turn it is. Without the right to, it stays free.
    pub fn pin(&self, thread: usize) {
        let mut set = CpuSet::new();
        set.set(self.cpus[thread % self.cpus.len()]);
        if sched_setaffinity(None, &set).is_err() {
            // Under emulators, for one: the figures are then those of a thread that may wander.
        }
    }

    /// True if so many threads share CPUs.
    pub fn is_oversubscribed(&self, threads: usize) -> bool {
        threads > self.cpus.len()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus: Vec<String> = self.cpus.iter().map(ToString::to_string).collect();
        write!(
            f,
            "{}; pinned to CPU {} of {}; {}; {}; load {}",
            self.model,
            cpus.join(", "),
            self.cpus_present,
            self.atomics,
            self.kernel,
            self.load,
        )
    }
}

/// How many CPUs /proc/cpuinfo names.
fn present(cpuinfo: &str) -> usize {
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

/// The CPUs that this process may use.
fn allowed() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
    }
}

/// The kernel's measure of a CPU's speed, where CPUs differ.
fn capacity(cpu: usize) -> u64 {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/cpu_capacity");
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The CPUs to be used.
fn choose(
    allowed: &[usize],
    wish: Option<&str>,
    capacity: impl Fn(usize) -> u64,
) -> Result<Vec<usize>, String> {
    let all = || allowed.iter().copied();
    let wish = wish.unwrap_or("big");
    let chosen: Vec<usize> = match wish {
        "big" | "little" => {
            let bounds = (all().map(&capacity).max(), all().map(&capacity).min());
            let wanted = if wish == "big" { bounds.0 } else { bounds.1 };
            all().filter(|cpu| Some(capacity(*cpu)) == wanted).collect()
        }
        list => {
            let number = |part: &str| {
                let cpu = part.trim().parse::<usize>();
                cpu.map_err(|_| format!("{CLUSTER}={list}: '{part}' is no CPU; try big or 4,5"))
            };
            let cpus: Vec<usize> = list.split(',').map(number).collect::<Result<_, _>>()?;
            match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                Some(cpu) => {
                    return Err(format!(
                        "{CLUSTER}={list}: CPU {cpu} may not be used here; there are {allowed:?}"
                    ));
                }
                None => cpus,
            }
        }
    };
    if chosen.is_empty() { Err(format!("{CLUSTER}={wish}: no CPU")) } else { Ok(chosen) }
}

/// The name of a CPU out of /proc/cpuinfo. Arm kernels give numbers.
fn model(cpuinfo: &str, cpu: usize) -> String {
    let mut section: &str = "";
    for part in cpuinfo.split("\n\n") {
        let is_it = |line: &str| {
            line.split_once(':').is_some_and(|(key, value)| {
                key.trim() == "processor" && value.trim() == cpu.to_string()
            })
        };
        if section.is_empty() || part.lines().any(is_it) {
            section = part;
        }
    }
    let field = |name: &str| {
        section.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    if let Some(name) = field("model name").filter(|name| !name.is_empty()) {
        return name.to_string();
    }
    match (field("CPU implementer"), field("CPU part")) {
        (Some("0x41"), Some(part)) => {
            let variant = field("CPU variant").unwrap_or("?").trim_start_matches("0x");
            let revision = field("CPU revision").unwrap_or("?");
            format!("{} r{variant}p{revision}", arm_part(part))
        }
        (Some(implementer), Some(part)) => format!("implementer {implementer}, part {part}"),
        _ => format!("unknown {} CPU", env::consts::ARCH),
    }
}

/// Arm's cores by part number.
fn arm_part(part: &str) -> String {
    let name = match part {
        "0xd03" => "Cortex-A53",
        "0xd05" => "Cortex-A55",
        "0xd08" => "Cortex-A72",
        "0xd0b" => "Cortex-A76",
        "0xd0c" => "Neoverse N1",
        "0xd40" => "Neoverse V1",
        "0xd49" => "Neoverse N2",
        "0xd4f" => "Neoverse V2",
        other => return format!("Arm part {other}"),
    };
    name.to_string()
}

/// How read-modify-write operations are compiled and carried out.
#[cfg(target_arch = "aarch64")]
fn atomics() -> String {
    let here = std::arch::is_aarch64_feature_detected!("lse");
    let how = match (cfg!(target_feature = "lse"), here) {
        (true, _) => "LSE inline (casal)",
        (false, true) => "outline atomics, which use LSE here",
        (false, false) => "outline atomics, load-linked here: no LSE",
    };
    how.to_string()
}

/// How read-modify-write operations are compiled and carried out.
#[cfg(not(target_arch = "aarch64"))]
fn atomics() -> String {
    format!("{} atomics", env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RK3588: &str = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x2\n\
        CPU part\t: 0xd05\nCPU revision\t: 0\n\nprocessor\t: 4\nCPU implementer\t: 0x41\n\
        CPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 0\n";

    #[test]
    fn a_board_with_two_kinds_of_cores_names_the_one_in_use() {
        assert_eq!(model(RK3588, 0), "Cortex-A55 r2p0");
        assert_eq!(model(RK3588, 4), "Cortex-A76 r4p0");
    }

    #[test]
    fn x86_has_a_name() {
        assert_eq!(model("processor\t: 0\nmodel name\t: Some CPU\n", 0), "Some CPU");
        assert!(model("", 0).starts_with("unknown"));
    }

    #[test]
    fn the_big_cluster_is_the_default() {
        let capacity = |cpu| if cpu < 4 { 414 } else { 1024 };
        let all: Vec<usize> = (0..8).collect();
        assert_eq!(choose(&all, None, capacity), Ok(vec![4, 5, 6, 7]));
        assert_eq!(choose(&all, Some("little"), capacity), Ok(vec![0, 1, 2, 3]));
        assert_eq!(choose(&all, Some("1,6"), capacity), Ok(vec![1, 6]));
    }

    #[test]
    fn a_cluster_that_is_not_there_is_refused() {
        let error = choose(&[0, 1], Some("0,9"), |_| 0).unwrap_err();
        assert!(error.contains("CPU 9 may not be used"), "{error}");
        assert!(choose(&[0, 1], Some("fast"), |_| 0).unwrap_err().contains("'fast' is no CPU"));
    }
}
